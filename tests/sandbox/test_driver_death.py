"""When our own process dies, however it dies, nothing of its sandboxes stays alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backends import BACKENDS
from scan import alive, gone_within, holds_within, slept_within

DRIVER = """
import sys, threading
from pathlib import Path
from xar_agent.sandbox import SandboxSpec, open_sandbox
backend, folder, marker = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
with open_sandbox(backend, SandboxSpec(workspace=folder)) as box:
    box.spawn(["sh", "-c", f"setsid sleep {marker} & (setsid sleep {marker} &) ; sleep {marker}"],
              stderr_path=folder.parent / "e")
    run = lambda: box.exec(["sh", "-c", f"trap '' TERM INT HUP; sleep {marker}; true"], timeout_s=600)
    if "thread" in sys.argv:
        threading.Thread(target=run, daemon=True).start()
        threading.Event().wait()
    run()
"""


@contextmanager
def driver(backend: str, workspace: Path, marker: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that runs four sleepers in a sandbox."""
    command = [sys.executable, "-c", DRIVER, backend, str(workspace), marker, *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert slept_within(marker, 4, 20)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("words", [(), ("thread",)])
def test_killing_the_driver_leaves_nothing_after_five_seconds(
    backend: str, workspace: Path, marker: str, words: tuple[str, ...]
) -> None:
    with driver(backend, workspace, marker, *words) as process:
        process.kill()
        assert gone_within(marker, 5)


def test_an_interrupt_ends_the_command_and_then_us(backend: str, workspace: Path, marker: str) -> None:
    with driver(backend, workspace, marker) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert b"KeyboardInterrupt" in said
        assert [pid for pid in alive(marker) if pid != process.pid] == []


def test_a_stopped_driver_does_not_stop_the_deadline(backend: str, workspace: Path, marker: str) -> None:
    code = DRIVER.replace("timeout_s=600", "timeout_s=1").replace("box.spawn", "(lambda *a, **k: 0)")
    with subprocess.Popen([sys.executable, "-c", code, backend, str(workspace), marker]) as process:
        assert slept_within(marker, 1, 20)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert gone_but_for(process.pid, marker)
        finally:
            process.kill()


def gone_but_for(pid: int, marker: str) -> bool:
    """Whether only the driver itself still names the marker, within five seconds."""
    return holds_within(lambda: set(alive(marker)) <= {pid}, 5)


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_killing_driver_and_supervisors_together_leaves_nothing(backend: str, workspace: Path, marker: str) -> None:
    with driver(backend, workspace, marker) as process:
        supervisors = [pid for pid in alive("supervise.main()") if parent(pid) == process.pid]
        assert len(supervisors) == 2
        for pid in (*supervisors, process.pid):
            os.kill(pid, signal.SIGKILL)
        assert gone_within(marker, 5)


def parent(pid: int) -> int:
    """Process id of the parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
