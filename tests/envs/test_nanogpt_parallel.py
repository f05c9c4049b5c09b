"""nanogpt's train.py on several processes and in the shape of the GPU presets, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from pathlib import Path
from random import Random

import pytest

from xar_agent.envs.spec import load_env
from xar_agent.jobs.stream import TokenServer

pytestmark = pytest.mark.torch
REPO = load_env("nanogpt").repo
BUDGET = 16 * 2048
TEXT = array("H", Random(3).choices(range(1024), weights=range(1, 1025), k=60_000))


def train(folder: Path, *, processes: int, edits: dict[str, str] | None = None) -> list[dict[str, float]]:
    """The curve of a run of the repository with ``edits`` (old text -> new) in its files."""
    folder.mkdir()
    for path in REPO.glob("*.py"):
        text = path.read_text()
        for old, new in (edits or {}).items():
            text = text.replace(old, new)
        (folder / path.name).write_text(text)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), "train.py"]
    with TokenServer(TEXT, budget=BUDGET, seed=5) as server:
        told = {"XAR_DATA": str(server.path), "XAR_BUDGET": str(BUDGET), "XAR_SEED": "5", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **told}, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_learn_what_one_learns_from_the_same_batches(tmp_path: Path) -> None:
    often = {"LOG_EVERY_STEPS = 10": "LOG_EVERY_STEPS = 1"}
    # Every process reports the loss of its own rows; the weights, and so the losses of later steps, follow all rows.
    mean = {**often, "return total\n": "return mean_of(total)\n", "def backward(": MEAN_OF + "def backward("}
    one = train(tmp_path / "one", processes=1, edits=often)
    two = train(tmp_path / "two", processes=2, edits=mean)
    assert [line["tokens"] for line in two] == [line["tokens"] for line in one]
    assert [line["lr"] for line in two] == [line["lr"] for line in one]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=2e-4)
    assert one[-1]["loss"] < one[0]["loss"] - 0.1


MEAN_OF = """def mean_of(total: float) -> float:
    value = torch.tensor([total], dtype=torch.float64)
    torch.distributed.all_reduce(value)
    return value.item() / 2


"""


def test_micro_batches_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    often = {"LOG_EVERY_STEPS = 10": "LOG_EVERY_STEPS = 1"}
    whole = train(tmp_path / "whole", processes=1, edits=often)
    parts = train(tmp_path / "parts", processes=1, edits={**often, "MICRO_BATCH_SIZE = 1024": "MICRO_BATCH_SIZE = 10"})
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], abs=2e-4)


def test_a_share_of_the_budget_ends_training_with_the_schedule_complete(tmp_path: Path) -> None:
    half = {"BUDGET_SHARE = 1.0": "BUDGET_SHARE = 0.5", "LOG_EVERY_STEPS = 10": "LOG_EVERY_STEPS = 1"}
    curve = train(tmp_path / "half", processes=1, edits=half)
    assert len(curve) == 8
    assert curve[-1]["tokens"] == BUDGET // 2
    assert curve[-1]["lr"] == pytest.approx(3e-4)


def test_the_loss_compiles_as_one_graph(tmp_path: Path) -> None:
    """What a GPU compiles; the graph is made without a GPU, code for it is not."""
    program = """
import torch, torch._dynamo
import model, train
gpt = model.GPT(64)
x = torch.zeros(2, 64, dtype=torch.long)
print(torch._dynamo.explain(train.compute_loss)(gpt, x, x).graph_count)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=REPO, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["1"]
