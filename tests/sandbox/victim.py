"""What a hostile command must not touch: a file and a process of the host, its listeners, its names and settings."""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import select
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scan import holds_within

CLOCK_DRIFT_S = 2.0
OWN_UIDS = 1 << 28
"""Ids above are one sandbox's only; below are people and containers."""
SETTINGS = ("kernel/hostname", "kernel/core_pattern", "kernel/randomize_va_space", "vm/overcommit_memory")
MESSAGES = [f"fs/mqueue/{name}" for name in ("msg_default", "msg_max", "msgsize_default", "msgsize_max", "queues_max")]
SHARED = ["auto_msgmni", "msgmax", "msgmnb", "msgmni", "sem", "shm_rmid_forced", "shmall", "shmmax", "shmmni"]
OWN_SETTINGS = [*MESSAGES, *(f"kernel/{name}" for name in (*SHARED, "pid_max", "ns_last_pid"))]
"""Each namespace has values of its own, so that a command may write them; the host's stay."""
ADD_KEY, KEYCTL, KEYCTL_UNLINK, SESSION_RING, USER_RING = 248, 250, 9, -3, -4
IPC_CREAT, IPC_RMID = 0o1000, 0


class Host:
    """Canaries and listeners on this machine; ``harm`` says what became of them."""

    def __init__(self, folder: Path, home: Path, secret: str) -> None:
        self.folder, self.home, self.secret = folder, home, secret
        self._stack = ExitStack()
        self._name = f"xar-{secrets.token_hex(8)}"
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> Host:
        for folder in (self.folder, self.home / ".ssh"):
            folder.mkdir(parents=True)
        self.file = self.folder / "canary"
        for path in (self.file, self.home / ".ssh" / "id_ed25519"):
            path.write_text(self.secret)
        self.folder.chmod(0o777)  # rights must not be all that keeps them apart
        self.file.chmod(0o666)
        self._canary = self._stack.enter_context(
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        )
        self._stack.callback(self._canary.kill)
        self._listen()
        self._share()
        self._settings, self._clock = settings(), clock_s()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _listen(self) -> None:
        self._sockets = []

        def bound(family: int, kind: int, address: Any) -> Any:
            server = self._stack.enter_context(socket.socket(family, kind))
            server.bind(address)
            if kind == socket.SOCK_STREAM:
                server.listen()
            server.setblocking(False)
            self._sockets.append(server)
            return server.getsockname()

        stream, datagrams = socket.SOCK_STREAM, socket.SOCK_DGRAM
        self._tcp = bound(socket.AF_INET, stream, ("127.0.0.1", 0))[1]
        self._udp = bound(socket.AF_INET, datagrams, ("127.0.0.1", 0))[1]
        if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
            bound(socket.AF_INET6, stream, ("::1", self._tcp))
        bound(socket.AF_UNIX, stream, "\0" + self._name)
        bound(socket.AF_UNIX, datagrams, "\0" + self._name + "-datagrams")
        self._unix = str(self.folder / "socket")
        bound(socket.AF_UNIX, stream, self._unix)
        Path(self._unix).chmod(0o777)

    def _share(self) -> None:
        """A key in each of our key rings, where there are any, and shared memory that all may use."""
        for ring in (SESSION_RING, USER_RING):
            secret = self.secret.encode()
            key = self._libc.syscall(ADD_KEY, b"user", self._name.encode(), secret, len(secret), ring)
            if key >= 0:
                self._stack.callback(self._libc.syscall, KEYCTL, KEYCTL_UNLINK, key, ring)
        self._shm_key = secrets.randbelow(2**30) + 1
        memory = self._libc.shmget(self._shm_key, 4096, IPC_CREAT | 0o666)
        self._stack.callback(self._libc.shmctl, memory, IPC_RMID, None)

    def address_book(self) -> dict[str, Any]:
        """All that an attack is told."""
        return {
            "file": str(self.file),
            "folder": str(self.folder),
            "homes": sorted(
                {str(self.home), "/root", *(user.pw_dir for user in pwd.getpwall() if user.pw_uid == os.geteuid())}
            ),
            "sockets": [os.environ["DOCKER_HOST"][7:]] if "DOCKER_HOST" in os.environ else [],
            "canary_pid": self._canary.pid,
            "tcp": self._tcp,
            "udp": self._udp,
            "unix": self._unix,
            "abstract": self._name,
            "key": self._name,
            "shm_key": self._shm_key,
            "hostname": os.uname().nodename,
            "own_settings": OWN_SETTINGS,
        }

    def harm(self) -> list[str]:
        """What is not as it was; empty when nothing was touched."""
        found = []
        if self.file.read_text() != self.secret or {path.name for path in self.folder.iterdir()} != {
            "canary",
            "socket",
        }:
            found.append("the canary file")
        if not self._canary_answers():
            found.append("the canary process")
        if abs(clock_s() - self._clock) > CLOCK_DRIFT_S:
            found.append("the clock")
        if settings() != self._settings:
            found.append("the kernel's settings")
        found += [f"a connection to {server.getsockname()!r}" for server in self._sockets if heard(server)]
        return found

    def _canary_answers(self) -> bool:
        assert self._canary.stdin is not None
        assert self._canary.stdout is not None
        word = secrets.token_hex(4).encode() + b"\n"
        try:
            self._canary.stdin.write(word)
        except OSError:
            return False
        ready, _, _ = select.select([self._canary.stdout], [], [], 5)
        return bool(ready) and self._canary.stdout.read(64) == word


def heard(server: socket.socket) -> bool:
    """Whether anybody has come to a listener."""
    try:
        if server.type == socket.SOCK_STREAM:
            server.accept()[0].close()
        else:
            server.recv(1)
    except BlockingIOError:
        return False
    return True


def clock_s() -> float:
    """How far the wall clock is from the one that nobody can set."""
    return time.time() - time.monotonic()


def settings() -> list[str]:
    """Some of the kernel's settings that a breach would change."""
    names = (*SETTINGS, *(name for name in OWN_SETTINGS if "last_pid" not in name))
    return [path.read_text() for path in (Path("/proc/sys", name) for name in names) if path.exists()]


def traces(marker: str, uid: int | None) -> list[str]:
    """What is alive of a command: by the marker on its command line or in its environment, or by an id of its own."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            of_its_user = uid is not None and uid >= OWN_UIDS and folder.stat().st_uid == uid
            words = (folder / "cmdline").read_bytes()
            marked = marker.encode() in words or marker.encode() in (folder / "environ").read_bytes()
        except OSError:
            continue  # it ended while we looked, or is not ours to see
        if state not in "ZX" and (marked or of_its_user):
            found.append(f"{folder.name} {state} {words[-200:]!r}")
    return found


def groups_left() -> list[str]:
    """Control groups of this process's commands that are still there."""
    name = f"xar-{os.getpid()}-"
    folders = os.walk("/sys/fs/cgroup", onerror=None)  # unlike glob, it does not mind folders that go away
    return [f"{folder}/{below}" for folder, names, _ in folders for below in names if below.startswith(name)]


def no_groups_left() -> bool:
    """The kernel lets go of a group a moment after its last process."""
    return holds_within(lambda: not groups_left(), 1.0)
