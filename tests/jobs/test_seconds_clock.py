"""Seconds of the token stream as the budget: the host keeps the clock, whatever a program does with its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from seconds_toy import BUDGET_S, by_seconds

from xar_agent.jobs.baseline import baseline_for, calibrate
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.fidelity import fidelity
from xar_agent.jobs.probe import UNCOUNTED, cpu_reference
from xar_agent.jobs.smoke import run_smoke
from xar_agent.jobs.training import Training, TrainingPlan, train
from xar_agent.jobs.types import FailureClass, JobSpec, JobState
from xar_agent.jobs.worker import JobEvent, run_job

Edit = Callable[..., str]
Wish = Callable[..., JobSpec]
Run = Callable[..., Training]
START = ('out = Path("out")\n', 'out = Path("out")\n    before()\n')
ON_PROCESS = pytest.mark.parametrize("backend", ["process"], indirect=True)


@pytest.fixture
def toy_copy(toy_copy: Path) -> Path:
    """The small toy environment with two seconds of its stream."""
    return by_seconds(toy_copy)


@pytest.fixture
def run(bench: Bench, edit: Edit, tmp_path: Path) -> Run:
    """``run("code")`` -> the training of the base with that code before it begins; limits of the plan by name."""

    def start(code: str, **limits: float) -> Training:
        body = "".join(f"    {line}\n" for line in code.splitlines())
        with bench.scratch_folder("read") as folder:
            source = (bench.checkout(bench.base_tree, folder) / "train.py").read_text()
        assert START[0] in source
        source = source.replace(*START).replace("def main()", f"def before() -> None:\n{body}\n\ndef main()")
        with bench.scratch_folder("test") as folder:
            plan = replace(TrainingPlan.of(bench, edit({"train.py": source}), 1), **limits)
            return train(bench, plan, folder / "train", log_path=tmp_path / "log")

    return start


def test_a_job_trains_until_its_seconds_are_over_and_is_scored(bench: Bench, wish: Wish, tmp_path: Path) -> None:
    events: list[JobEvent] = []
    outcome = run_job(bench, wish(bench.base_tree), tmp_path / "job", on_event=events.append)
    assert outcome.state is JobState.SUCCEEDED, outcome.failure
    found = outcome.evaluation
    assert found is not None
    assert found.valid, found.reasons
    assert found.tokens > 0
    assert 1.0 <= found.compute_ratio < 5.0
    (compute,) = (check for check in found.checks if check.name == "compute")
    assert (compute.passed, compute.figure) == (True, pytest.approx(found.compute_ratio * BUDGET_S))
    assert cpu_reference(bench, 1) is UNCOUNTED
    metric = [event for event in events if event.kind == "metric"]
    assert metric
    for event in metric:
        assert (event.clock, event.budget) == ("seconds", BUDGET_S)
        assert event.eta_s == pytest.approx(BUDGET_S - event.used)


@ON_PROCESS
def test_what_comes_before_the_first_token_is_not_charged(run: Run) -> None:
    training = run("import time; time.sleep(2.5)")
    assert training.failure is None
    assert BUDGET_S <= training.trained_s <= training.wall_s - 2.0


@ON_PROCESS
@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.monotonic = time.time = time.perf_counter = lambda: 0.0",
        "os.environ['XAR_BUDGET'] = '3600'",
        "for _ in range(100): TokenStream().read(1, 8)",
    ],
)
def test_neither_a_stopped_clock_nor_a_larger_budget_nor_more_connections_give_more_seconds(
    run: Run, code: str
) -> None:
    training = run(code)
    assert training.failure is None, training.failure
    assert BUDGET_S <= training.trained_s < BUDGET_S + 20
    assert training.tokens > 0


@ON_PROCESS
def test_a_program_that_asks_once_and_then_idles_is_ended_after_the_overtime(run: Run) -> None:
    training = run("import time\nTokenStream().read(1, 8)\ntime.sleep(100)", budget=1, overtime_s=1.0)
    assert training.failure is not None
    assert training.failure.kind is FailureClass.TIMEOUT
    assert training.failure.reason.endswith("s after its budget of 1 s (1 s are for saving and ending)")
    assert training.tokens == 8
    assert training.checkpoint is None


@ON_PROCESS
def test_a_program_that_never_asks_for_a_token_is_ended_by_the_wall_limit(run: Run) -> None:
    training = run("import time; time.sleep(100)", wall_s=3.0)
    assert training.failure is not None
    assert (training.failure.kind, "time limit: 3 s" in training.failure.reason) == (FailureClass.TIMEOUT, True)
    assert (training.tokens, training.trained_s) == (0, 0.0)


def test_a_process_that_is_left_behind_ends_with_the_run(run: Run) -> None:
    mark = f"66{time.time_ns() % 10**6}"
    training = run(f"import subprocess; subprocess.Popen(['sleep', '{mark}'], start_new_session=True)")
    assert training.failure is None
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]


@ON_PROCESS
def test_smoke_and_calibration_keep_the_same_clock(bench: Bench, tmp_path: Path) -> None:
    report = run_smoke(bench, bench.base_tree, log_path=tmp_path / "smoke.log")
    assert report.passed, report.failure
    found = calibrate(bench, 2, compute=(0.5, 1.0))
    assert [(point.compute, point.n) for point in found.curve] == [(0.5, 2), (1.0, 2)]
    assert baseline_for(bench.env, "default") == found


@ON_PROCESS
def test_a_difference_says_nothing_where_the_same_seed_gives_other_bits(
    bench: Bench, edit: Edit, wish: Wish, tmp_path: Path
) -> None:
    assert fidelity(bench, edit({"train.py": ("step += 1", "step += 1  # one")}), [], jobs_dir=tmp_path) == "no_effect"
    other = edit({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 2.0")})
    assert fidelity(bench, other, [], jobs_dir=tmp_path) == "unknown"
