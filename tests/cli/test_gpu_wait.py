"""A command whose GPUs others hold: it waits, and Ctrl-C or the end of its time ends the wait at once."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_gpus import make_this_machine

from xar_agent.envs.spec import load_env
from xar_agent.sandbox.gpus import Gpus

pytestmark = pytest.mark.bwrap
START_S = 60.0
CHANGE = ("LEARNING_RATE = 1.0", "LEARNING_RATE = 2.0")


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """One made device, and an environment that needs it: a copy of the toy."""
    folder = tmp_path / "one-gpu"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    (folder / "env.toml").write_text(text.replace("gpus = 0", "gpus = 1").replace('name = "toy"', 'name = "one-gpu"'))
    monkeypatch.setenv("XAR_ENVS", str(folder))
    monkeypatch.setenv("XAR_SANDBOX", "bubblewrap")
    return make_this_machine(monkeypatch, tmp_path, 1)


def test_ctrl_c_ends_the_wait_for_a_device(xar: Any, make_patch: Callable[[str, str], Path], gpus: Gpus) -> None:
    with gpus.lease(1):
        command = xar.start("evaluate", make_patch(*CHANGE), "--env", "one-gpu", "--run", "r")
        deadline = time.monotonic() + START_S
        while not list(gpus.folder.glob("wait-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        begun = time.monotonic()
        out, err = command.communicate(timeout=30)
        assert command.returncode == 130, (out, err)
        assert time.monotonic() - begun < 5
        assert not list(gpus.folder.glob("wait-*"))
    ended = xar("evaluate", make_patch(*CHANGE), "--env", "one-gpu", "--run", "r", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["evaluation"]["valid"]


def test_the_end_of_the_time_ends_the_wait(xar: Any, make_patch: Callable[[str, str], Path], gpus: Gpus) -> None:
    with gpus.lease(1):
        patch = make_patch(*CHANGE)
        ended = xar("evaluate", patch, "--env", "one-gpu", "--budget-hours", 0.002, timeout_s=60)
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert not list(gpus.folder.glob("wait-*"))


def test_without_enough_devices_nothing_is_started(
    xar: Any, make_patch: Callable[[str, str], Path], gpus: Gpus, runs_dir: Path
) -> None:
    (gpus.nodes / "nvidia0").unlink()
    ended = xar("evaluate", make_patch(*CHANGE), "--env", "one-gpu")
    assert ended.code == 3
    assert "1 GPU wanted, none can be used here" in ended.err
    assert not list(runs_dir.iterdir())
