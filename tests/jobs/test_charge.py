"""What a candidate computes while it is scored: free up to an allowance, then charged, then too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xar_agent.envs.spec import load_env
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.charge import (
    charged_cpu_s,
    compute_ratio,
    free_cpu_s,
    with_compute_check,
    with_time_check,
    worker_limit_s,
)
from xar_agent.jobs.evaluation import Measurement
from xar_agent.jobs.probe import UNCOUNTED, CpuReference
from xar_agent.jobs.training import Training
from xar_agent.jobs.types import Check, Failure, FailureClass, JobSpec
from xar_agent.jobs.worker import evaluation_of, run_job

HUNDRED = CpuReference(100.0, ())
"""11 CPU seconds are free, the cap is at 152."""


def found(worker_cpu_s: float, failure: Failure | None = None) -> Measurement:
    """A valid measurement whose costliest worker took so long."""
    return Measurement(1.0, {}, (Check("shape", True),), failure, 7, worker_cpu_s)


@pytest.mark.parametrize(
    ("worker_cpu_s", "charged", "over"),
    [(11.0, 140.0, False), (23.0, 152.0, False), (24.0, 153.0, True), (500.0, 629.0, True)],
)
def test_a_worker_beyond_its_allowance_is_charged_and_over_the_cap_it_is_invalid(
    worker_cpu_s: float, charged: float, over: bool
) -> None:
    assert charged_cpu_s(HUNDRED, 140.0, worker_cpu_s) == charged
    judged = with_compute_check(found(worker_cpu_s), HUNDRED, 140.0)
    assert judged.valid is not over
    if over:
        assert judged.failure is not None
        assert judged.failure.kind is FailureClass.INVALID
        check = judged.checks[-1]
        assert (check.name, check.passed, check.figure) == ("compute", False, charged)
        assert "152.0" in check.reason


def test_a_worker_that_scores_as_the_untouched_model_does_has_little_left_to_train_for_free() -> None:
    nanogpt = CpuReference(71.0, ())
    scoring_s = 6.0  # the costliest of its workers
    assert scoring_s < free_cpu_s(nanogpt) < scoring_s + 0.06 * nanogpt.baseline_cpu_s


def test_training_that_crosses_its_own_cap_a_little_is_not_the_workers_fault() -> None:
    assert with_compute_check(found(11.0), HUNDRED, 153.0).valid


def test_what_failed_before_stays_the_reason() -> None:
    first = Failure(FailureClass.TIMEOUT, "used more CPU time than allowed")
    assert with_compute_check(found(500.0, first), HUNDRED, 140.0).failure == first


@pytest.mark.parametrize(("worker_wall_s", "charged_s", "over"), [(190.0, 505.0, False), (600.0, 881.0, True)])
def test_where_seconds_are_the_budget_training_in_a_worker_is_charged_by_the_clock(
    worker_wall_s: float, charged_s: float, over: bool
) -> None:
    # 1gpu has 480 seconds: 180 and a twentieth of them are free, and 30 more are for saving.
    preset = load_env("nanogpt").preset("1gpu")
    training = Training(None, None, "", 10**9, 900.0, 560.0, (), trained_s=485.0 if over else 505.0)
    measured = replace(found(0.0), worker_wall_s=worker_wall_s)
    assert compute_ratio(preset, UNCOUNTED, training, measured) == pytest.approx(charged_s / 480)
    judged = with_time_check(measured, preset, training)
    check = judged.checks[-1]
    assert (check.name, check.passed, judged.valid, check.figure) == ("compute", not over, not over, charged_s)


def test_where_the_time_to_a_target_is_the_score_no_worker_may_go_on_training() -> None:
    preset = load_env("nanogpt").preset("speedrun")
    training = Training(None, None, "", 10**9, 900.0, 100.0, (), trained_s=60.0)
    assert with_time_check(replace(found(0.0), worker_wall_s=200.0), preset, training).valid
    judged = with_time_check(replace(found(0.0), worker_wall_s=590.0), preset, training)
    assert judged.failure is not None
    assert "compute: 60 s of training and 590 s of waiting" in judged.failure.reason


@pytest.mark.parametrize(("train_cpu_s", "limit_s"), [(100.0, 63.0), (152.0, 30.0), (160.0, 30.0)])
def test_a_worker_is_ended_when_allowance_and_remaining_cap_are_used_up(train_cpu_s: float, limit_s: float) -> None:
    assert worker_limit_s(HUNDRED, train_cpu_s) == limit_s


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_the_compute_ratio_of_a_result_holds_the_worker_and_the_figure_is_on_record(
    bench: Bench, wish: Callable[..., JobSpec]
) -> None:
    training = Training(None, None, "", 1, 100.0, 1.0, ())
    evaluation = evaluation_of(bench, wish(bench.base_tree), training, found(31.0), HUNDRED)
    assert (evaluation.compute_ratio, evaluation.train_cpu_s, evaluation.worker_cpu_s) == (1.2, 100.0, 31.0)


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_job_counts_the_cpu_time_of_its_costliest_worker(
    bench: Bench, wish: Callable[..., JobSpec], tmp_path: Path
) -> None:
    evaluation = run_job(bench, wish(bench.base_tree), tmp_path / "job").evaluation
    assert evaluation is not None
    assert 0 < evaluation.worker_cpu_s < 10
    assert evaluation.valid
