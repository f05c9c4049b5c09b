"""Ctrl-C, SIGTERM and kill -9 in the middle of training: no process is left, and the record says what happened."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.bwrap

START_S = 90.0
STOP_S = 30.0
KILLED_S = 5.0
"""After kill -9 everything is gone this soon, with no command run."""

SLOW = """
import subprocess
import time

if int(os.environ["XAR_BUDGET"]) > 5000:  # not in the smoke test
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    time.sleep(300)
"""


IMPORT = "from stream import TokenStream\n"


@pytest.fixture
def slow_patch(make_patch: Callable[[str, str], Path]) -> Path:
    """A patch whose training hangs, with a child that has left its session."""
    return make_patch(IMPORT, IMPORT + SLOW)


class Training:
    """A command in the middle of training."""

    def __init__(self, xar: Any, patch: Path, runs_dir: Path) -> None:
        self.xar = xar
        self.run = runs_dir / "r"
        self.command: subprocess.Popen[str] = xar.start("evaluate", patch, "--env", "toy", "--run", "r")
        self.below = self.wait_for_training()

    def wait_for_training(self) -> list[psutil.Process]:
        """Every process under the command, once the child that left its session is among them."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.command.poll() is None:
            below = psutil.Process(self.command.pid).children(recursive=True)
            if "sleep" in {name_of(process) for process in below}:
                return below
            time.sleep(0.1)
        self.command.kill()
        raise AssertionError(self.command.communicate())

    def end(self, signum: int) -> tuple[int, str, str]:
        """Send a signal; exit code, stdout and stderr."""
        self.command.send_signal(signum)
        out, err = self.command.communicate(timeout=STOP_S)
        return self.command.returncode, out, err

    def alive(self) -> list[psutil.Process]:
        """Those that were there during training and still are."""
        return [process for process in self.below if process.is_running() and status_of(process) != "zombie"]

    def job(self) -> dict[str, Any]:
        """The only job, as ``jobs list`` has it."""
        (job,) = self.xar("jobs", "list", "--run", "r", "--json").json["jobs"]
        assert isinstance(job, dict)
        return job


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def status_of(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return "zombie"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_leaves_no_process_and_a_record(xar: Any, slow_patch: Path, runs_dir: Path, signum: int) -> None:
    training = Training(xar, slow_patch, runs_dir)
    code, out, err = training.end(signum)
    assert code == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert training.alive() == []
    assert training.job()["state"] == "cancelled"


def test_kill_9_leaves_no_process_and_a_run_that_can_be_read(xar: Any, slow_patch: Path, runs_dir: Path) -> None:
    training = Training(xar, slow_patch, runs_dir)
    training.end(signal.SIGKILL)
    deadline = time.monotonic() + KILLED_S
    while training.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert training.alive() == []
    assert training.job()["state"] == "lost"
    (run,) = xar("runs", "list", "--json").json["runs"]
    assert (run["run"], run["active"]) == ("r", False)
    shown = xar("runs", "show", "r")
    assert "the command that ran it ended before it did" in shown.out


def test_jobs_cancel_ends_a_job_of_another_process(xar: Any, slow_patch: Path, runs_dir: Path) -> None:
    training = Training(xar, slow_patch, runs_dir)
    asked = xar("jobs", "cancel", training.job()["id"], "--json")
    assert (asked.code, asked.json["requested"]) == (0, True)
    out, err = training.command.communicate(timeout=STOP_S)
    assert training.command.returncode == 1, err
    assert training.alive() == []
    assert training.job()["state"] == "cancelled"
    again = xar("jobs", "cancel", training.job()["id"], "--json")
    assert again.code == 2
    assert "has ended" in json.loads(again.out)["error"]
    assert "score" in out
