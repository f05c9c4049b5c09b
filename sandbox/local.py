"""What the back ends on this machine share: commands under a supervisor, files and snapshots on the host's side."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from xar_agent.errors import SandboxLost, SandboxStartError
from xar_agent.sandbox import cgroup, files, tree
from xar_agent.sandbox.launch import Launch, command_words, refusal, why_unstartable
from xar_agent.sandbox.protocol import WORKSPACE, ExecResult, Limits, Process, SandboxInfo, SandboxSpec
from xar_agent.sandbox.supervised import SupervisedProcess

STDERR_KEPT = 65_536
SUPPORT = "xar-sandbox-"
NEW_S = 60.0
"""A younger folder may not have its lock yet."""


class LocalSandbox(ABC):
    """A sandbox whose commands are started from this machine, each under a supervisor of its own."""

    info: SandboxInfo

    def __init__(self, spec: SandboxSpec) -> None:
        self.spec = spec
        self.owner: int | None = None
        """User id that owns what the host writes for the sandbox; None: our own."""
        self._support: Path | None = None
        self._running: list[SupervisedProcess] = []
        self._state = threading.RLock()
        self._one_command = threading.Lock()
        self._closed = False

    @abstractmethod
    def prepare(self, support: Path) -> None:
        """Make what commands need under ``support``, a private folder of this sandbox."""

    @abstractmethod
    def launch(self, argv: tuple[str, ...], cwd: str, env: Mapping[str, str]) -> Launch:
        """How the supervisor starts a command."""

    @abstractmethod
    def path_of(self, target: str) -> str:
        """What a command must say to reach ``target``."""

    @property
    def support(self) -> Path:
        """The private folder with /tmp and the snapshots.

        Raises:
            SandboxLost: the sandbox is closed or was never started.
        """
        if self._support is None or self._closed:
            raise SandboxLost(f"sandbox {self.spec.name!r} is {'closed' if self._closed else 'not started'}")
        return self._support

    def start(self) -> None:
        """Make it usable. Calling twice is fine."""
        with self._state:
            if self._support is not None:
                return
            if not self.spec.workspace.is_dir():
                raise SandboxStartError(f"there is no workspace folder {self.spec.workspace}")
            for bind in self.spec.binds:
                if not bind.source.exists():
                    raise SandboxStartError(f"{bind.source} is to be shown at {bind.target} but does not exist")
            _sweep(Path(tempfile.gettempdir()))
            support = Path(tempfile.mkdtemp(prefix=SUPPORT))
            self._lock = _hold(support)
            try:
                (support / "tmp").mkdir(mode=0o700)
                self.prepare(support)
            except BaseException:
                files.remove_tree(support)
                os.close(self._lock)
                raise
            self._support = support

    def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 120.0,
        cpu_s: float | None = None,
        max_bytes: int = 65_536,
        log_path: Path | None = None,
    ) -> ExecResult:
        """Run one command to its end or its deadline; see the protocol."""
        with self._one_command:
            process = self._begin(
                argv, cwd, env, timeout_s=timeout_s, cpu_s=cpu_s, keep_bytes=max_bytes, log_path=log_path, stdin=stdin
            )
            try:
                return process.wait()
            finally:
                self._forget(process)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 3600.0,
        cpu_s: float | None = None,
        stderr_path: Path,
    ) -> Process:
        """Start a command with its streams open; see the protocol."""
        return self._begin(
            argv, cwd, env, timeout_s=timeout_s, cpu_s=cpu_s, keep_bytes=STDERR_KEPT, log_path=stderr_path, stdin=None
        )

    def _begin(
        self,
        argv: Sequence[str],
        cwd: str,
        env: Mapping[str, str] | None,
        *,
        timeout_s: float,
        cpu_s: float | None,
        keep_bytes: int,
        log_path: Path | None,
        stdin: bytes | None,
    ) -> SupervisedProcess:
        words, own = command_words(argv), self.environment()
        variables = {**own, **(env or {})}
        why = why_unstartable(words, cwd, variables)
        if why:
            words, cwd, variables = refusal(why), "", own
        with self._state:
            launch = self.launch(words, cwd, variables)
            process = SupervisedProcess(
                launch, timeout_s=timeout_s, cpu_s=cpu_s, keep_bytes=keep_bytes, log_path=log_path, stdin=stdin
            )
            self._running.append(process)
            return process

    def _forget(self, process: SupervisedProcess) -> None:
        process.close()
        with self._state:
            if process in self._running:
                self._running.remove(process)

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """All that a command sees, before ``env`` of the call."""

    def read(self, path: str, *, max_bytes: int = 16_777_216) -> bytes:
        """Bytes of a regular file in the workspace; see the protocol."""
        return files.read_file(self._open_workspace(), path, max_bytes=max_bytes, aliases=self._aliases())

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the workspace; see the protocol."""
        files.write_file(self._open_workspace(), path, content, aliases=self._aliases(), owner=self.owner)

    def snapshot(self) -> str:
        """Hash of a git tree that holds the workspace as it is."""
        return tree.snapshot(self.support / "snapshots", self.spec.workspace)

    def restore(self, tree_hash: str) -> None:
        """Make the workspace equal to a snapshot of this sandbox."""
        tree.restore(self.support / "snapshots", tree_hash, self.spec.workspace, owner=self.owner)

    def kill_all(self) -> int:
        """Kill whatever runs inside; the number of processes killed."""
        with self._state:
            running = list(self._running)
        return sum(process.end() for process in running)

    def close(self) -> None:
        """End it; the workspace folder stays on the host. Calling twice is fine."""
        with self._state:
            running, self._running = self._running, []
            support, closed, self._closed = self._support, self._closed, True
        for process in running:
            process.close()
        if support is not None and not closed:
            files.remove_tree(support)
            os.close(self._lock)

    def __enter__(self) -> LocalSandbox:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_workspace(self) -> Path:
        assert self.support
        return self.spec.workspace

    def _aliases(self) -> tuple[str, ...]:
        return tuple({WORKSPACE, self.path_of(WORKSPACE)})


def _hold(support: Path) -> int:
    """A lock that lasts as long as we live: who can take it may remove the folder."""
    lock = os.open(support / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _sweep(folder: Path) -> None:
    """Remove what drivers that were killed have left behind."""
    for left in folder.glob(f"{SUPPORT}*"):
        with contextlib.suppress(OSError):
            known = left.lstat()
            if known.st_uid != os.geteuid() or time.time() - known.st_mtime < NEW_S:
                continue
            lock = os.open(left / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                files.remove_tree(left)
            finally:
                os.close(lock)


def rlimits(limits: Limits) -> dict[str, int]:
    """Limits that the kernel puts on each process, by the names that ``resource`` has for them."""
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": None if limits.file_mib is None else limits.file_mib << 20,
        "RLIMIT_NOFILE": limits.open_files,
    }
    return {name: limit for name, limit in wanted.items() if limit is not None}


def memory_bound(limits: Limits) -> tuple[Mapping[str, object], int | None]:
    """A control group where one can be made, else bytes for the watchdog."""
    group = cgroup.make(limits)
    return group, None if group or limits.memory_mib is None else limits.memory_mib << 20


def memory_means() -> str:
    """How memory is bounded here, in the words of ``Capabilities.mem_limit``."""
    return "cgroup" if cgroup.version() else "watchdog"


def what_is_sampled() -> str:
    """What a person should know where no control group counts for us; empty where one does."""
    if cgroup.version():
        return ""
    return (
        "memory and CPU are sampled every 0.1 s: CPU of children that nobody waits for may be under-counted, "
        "and memory files that are mapped and then closed are not seen"
    )
