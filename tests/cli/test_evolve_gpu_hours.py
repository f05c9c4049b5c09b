"""A budget in GPU-hours: the worst case of a training run is held while it lasts, and its real time is booked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_gpus import make_this_machine

from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.jobs.baseline import baseline_path
from xar_agent.store import read_lines

pytestmark = pytest.mark.bwrap
WORST_HOURS = (60.0 + 600.0) * 2 / 3600
"""Time limit of the toy's training and of an evaluation, twice."""


@pytest.fixture
def one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The toy environment as if its training took a GPU, with its baseline, and one made device."""
    make_this_machine(monkeypatch, tmp_path, 1)
    monkeypatch.setenv("XAR_SANDBOX", "bubblewrap")
    toy = load_env("toy")
    folder = tmp_path / "one-gpu"
    shutil.copytree(toy.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    assert "gpus = 0" in text
    (folder / "env.toml").write_text(text.replace("gpus = 0", "gpus = 1").replace('name = "toy"', 'name = "one-gpu"'))
    env = EnvSpec(folder)
    baseline = toy.shipped_baseline("default")
    assert baseline is not None
    path = baseline_path(env, "default")
    path.parent.mkdir(parents=True)
    path.write_text(baseline.model_copy(update={"env_version": env.version}).model_dump_json())
    monkeypatch.setenv("XAR_ENVS", str(folder))
    return "one-gpu"


def search(env: str, hours: float) -> tuple[str, ...]:
    return (
        *("evolve", "--env", env, "--policy", "knobs", "--ideas", "3", "--epochs", "1", "--parallel", "2"),
        *("--run", "r", "--budget-gpu-hours", str(hours), "--json"),
    )


def test_gpu_hours_are_reserved_and_booked(xar: Any, runs_dir: Path, one_gpu: str) -> None:
    ended = xar(*search(one_gpu, 0.9 * WORST_HOURS))
    assert ended.code == 1
    assert "GPU-hours is used up" in ended.json["stopped"]
    assert not list((runs_dir / "r" / "jobs").glob("*"))

    ended = xar(*search(one_gpu, 1.5 * WORST_HOURS))
    assert ended.code == 0, ended.err
    assert ended.json["completion"]["ideas"] == 3
    lines = read_lines(runs_dir / "r" / "ledger.jsonl")
    held = [line["gpu_hours"] for line in lines if "reserve" in line]
    booked = [line["gpu_hours"] for line in lines if "settle" in line]
    assert held == pytest.approx([WORST_HOURS] * 3)
    assert all(0 < hours < 60 / 3600 for hours in booked)
    # Room for one at a time: whatever is held is settled before the next one is held.
    assert ["reserve" in line for line in lines] == [True, False] * 3
    assert json.loads((runs_dir / "r" / "run.json").read_text())["settings"]["budget_gpu_hours"] > 0
