"""A private Docker engine for tests: no network, no registry, everything in one folder, gone when it is stopped.

    python3 tests/engine/engine.py start [FOLDER]     prints the line to eval: export DOCKER_HOST=unix://FOLDER/docker.sock
    python3 tests/engine/engine.py stop FOLDER        prints nothing

As root. Only the standard library is needed; where there is no dockerd, Debian's docker.io is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_S = 30.0
STOP_S = 30.0
OFF = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")
MARK = ".xar-agent-engine"
"""A folder without this file was not made here and is not removed."""


def install() -> None:
    """Debian's engine; its words go to stderr, because stdout is to be evaluated."""
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    for argv in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "docker.io"]):
        subprocess.run(["apt-get", *argv], check=True, stdout=sys.stderr)


def answers(path: Path) -> bool:
    """Whether an engine speaks at this socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in client.recv(64)
        except OSError:
            return False


def start(folder: Path) -> None:
    """Start the engine, or find it running, and say where it is."""
    if os.geteuid() != 0:
        sys.exit("the engine must be started as root")
    if shutil.which("dockerd") is None:
        install()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    listening = folder / "docker.sock"
    if not answers(listening):
        engine = launch(folder)
        deadline = time.monotonic() + START_S
        while not answers(listening):
            if engine.poll() is not None or time.monotonic() > deadline:
                log = (folder / "log").read_text(errors="replace").splitlines()
                stop(folder)
                sys.exit("\n".join(["the engine did not start:", *log[-15:]]))
            time.sleep(0.1)
    print(f"export DOCKER_HOST=unix://{listening}")


def launch(folder: Path) -> subprocess.Popen[bytes]:
    """Start dockerd in a session of its own."""
    argv = [
        "dockerd",
        f"--host=unix://{folder / 'docker.sock'}",
        f"--data-root={folder / 'data'}",
        f"--exec-root={folder / 'exec'}",
        f"--pidfile={folder / 'docker.pid'}",
        "--storage-driver=overlay2",
        *OFF,
    ]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def stop(folder: Path) -> None:
    """End the engine and what it started, unmount what it mounted, remove the folder."""
    if not (folder / MARK).exists():
        sys.exit(f"no engine was started in {folder}")
    end(folder / "docker.pid", "dockerd")
    end(folder / "exec" / "containerd" / "containerd.pid", "containerd")
    below = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mounted in sorted((path for path in below if path.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mounted], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)


def end(pid_file: Path, name: str) -> None:
    """Ask the process to end; kill it if it does not. A pid that another program has by now is left alone."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    # Once each: at the third SIGTERM dockerd gives up its containers instead of stopping them.
    for number in (signal.SIGTERM, signal.SIGKILL):
        if runs(pid, name):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_S
        while runs(pid, name) and time.monotonic() < deadline:
            time.sleep(0.1)


def runs(pid: int, name: str) -> bool:
    """Whether this process is alive and the program that it should be."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == name and "Z" not in state(pid)
    except OSError:
        return False


def state(pid: int) -> str:
    """The process's state letter; Z is a dead one that nobody has waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def main() -> None:
    """The command."""
    match sys.argv[1:]:
        case ["start"]:
            start(Path(tempfile.mkdtemp(prefix="xar-engine-")))
        case ["start", folder]:
            start(Path(folder).resolve())
        case ["stop", folder]:
            stop(Path(folder).resolve())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
