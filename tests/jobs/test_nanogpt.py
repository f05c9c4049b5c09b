"""The nanogpt environment through the same jobs, with a tiny budget."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.errors import DataUnavailable
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.smoke import run_smoke
from xar_agent.jobs.types import FailureClass, JobSpec, JobState
from xar_agent.jobs.worker import JobOutcome, run_job
from xar_agent.sandbox import tree

pytestmark = [pytest.mark.torch, pytest.mark.bwrap]
SMALLER = {
    "budget = 1351680": "budget = 61440",
    "val_tokens = 98304": "val_tokens = 4096",
    "smoke_rows = 64": "smoke_rows = 16",
}


@pytest.fixture(scope="module")
def nanogpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment at a twentieth of its size."""
    folder = tmp_path_factory.mktemp("envs") / "nanogpt"
    shutil.copytree(load_env("nanogpt").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "env.toml").write_text(text)
    return folder


@pytest.fixture
def bench(nanogpt: Path, user_cache: Path, runs_dir: Path) -> Iterator[Bench]:
    """Ready to measure; the data set is taken from the user's cache or prepared there once."""
    with RunStore.create(runs_dir, "run", {}) as store:
        try:
            yield open_bench(EnvSpec(nanogpt), "cpu", "bubblewrap", store.dir)
        except DataUnavailable as error:
            pytest.skip(f"the data set cannot be prepared here: {error.message}")


def run(bench: Bench, name: str, old: str, new: str, job_dir: Path) -> JobOutcome:
    with bench.scratch_folder("edit") as folder:
        workspace = bench.checkout(bench.base_tree, folder)
        text = (workspace / name).read_text()
        assert old in text
        (workspace / name).write_text(text.replace(old, new))
        changed = tree.snapshot(bench.git_store, workspace)
    spec = JobSpec("run", "idea", "nanogpt", "cpu", 1, bench.diff(changed), changed)
    return run_job(bench, spec, job_dir)


def test_a_small_run_learns_and_is_valid(bench: Bench, tmp_path: Path) -> None:
    outcome = run(bench, "train.py", "LEARNING_RATE = 3e-3", "LEARNING_RATE = 4e-3", tmp_path / "job")
    assert outcome.state is JobState.SUCCEEDED, outcome.failure
    assert outcome.evaluation is not None
    assert outcome.evaluation.valid, outcome.evaluation.reasons
    assert outcome.evaluation.value is not None
    assert 5.0 < outcome.evaluation.value < 6.9  # ln 1024 = 6.93 is a guess
    assert outcome.evaluation.tokens == 61440
    assert 0.5 < outcome.evaluation.compute_ratio < 1.6


def test_a_wrong_shape_is_found_by_the_smoke_test_with_its_line(bench: Bench, tmp_path: Path) -> None:
    with bench.scratch_folder("edit") as folder:
        workspace = bench.checkout(bench.base_tree, folder)
        text = (workspace / "model.py").read_text()
        (workspace / "model.py").write_text(
            text.replace("nn.Linear(MLP_RATIO * N_EMBD, N_EMBD", "nn.Linear(N_EMBD, N_EMBD")
        )
        changed = tree.snapshot(bench.git_store, workspace)
    report = run_smoke(bench, changed, log_path=tmp_path / "smoke.log")
    assert report.failure is not None
    assert (report.failure.kind, report.failure.file) == (FailureClass.SHAPE, "model.py")
    assert report.failure.line
