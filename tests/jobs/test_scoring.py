"""The verdict's rule: exact quantiles, the stated false-positive rate, and the baseline at the candidate's compute."""

from __future__ import annotations

import math
import random
import statistics
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xar_agent.envs.spec import Baseline, CurvePoint
from xar_agent.jobs.scoring import (
    baseline_at,
    score,
    student_t_cdf,
    student_t_quantile,
    with_failed_jobs,
    with_fidelity,
)
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, Job, JobSpec, JobState
from xar_agent.sandbox.protocol import Patch


def evaluation(value: float | None, *, ratio: float = 1.0, valid: bool = True, seed: int = 0) -> Evaluation:
    return Evaluation(
        metric="val_loss",
        value=value,
        direction="min",
        valid=valid,
        reasons=() if valid else ("prefix_audit: sees the future",),
        checks=(),
        seed=seed,
        compute_ratio=ratio,
        train_cpu_s=1.0,
        train_wall_s=1.0,
        tokens=1,
        tree="t",
        checkpoint_sha256="c",
        env_version="e",
        evaluator_version="v",
        data_sha256="d",
        machine="m",
    )


def baseline(values: list[float], curve: list[CurvePoint] | None = None) -> Baseline:
    mean, sd, n = statistics.fmean(values), statistics.stdev(values), len(values)
    return Baseline(
        env_version="e",
        evaluator_version="v",
        preset="cpu",
        machine="m",
        mean=mean,
        sd=sd,
        n=n,
        values={str(i): v for i, v in enumerate(values)},
        cpu_s=60.0,
        curve=curve or [CurvePoint(compute=1.0, mean=mean, sd=sd, n=n)],
    )


FIVE = baseline([4.39 + 0.033 * x for x in (-1.2, -0.4, 0.0, 0.5, 1.1)])
CURVE = [
    CurvePoint(compute=0.5, mean=4.6, sd=0.03, n=3),
    CurvePoint(compute=1.0, mean=FIVE.mean, sd=FIVE.sd, n=5),
    CurvePoint(compute=1.5, mean=4.2, sd=0.03, n=3),
]
CURVED = FIVE.model_copy(update={"curve": CURVE})


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [
        (0.975, 1, 12.7062047364),
        (0.975, 2, 4.3026527297),
        (0.975, 3, 3.1824463053),
        (0.975, 4, 2.7764451052),
        (0.975, 10, 2.2281388520),
        (0.975, 19, 2.0930240544),
        (0.975, 30, 2.0422724563),
        (0.975, 120, 1.9799304051),
        (0.95, 4, 2.1318467863),
        (0.995, 5, 4.0321429836),
        (0.9995, 7, 5.4078825209),
        (0.025, 4, -2.7764451052),
        (0.5, 9, 0.0),
    ],
)
def test_quantiles_are_those_of_the_printed_tables(p: float, df: int, t: float) -> None:
    assert student_t_quantile(p, df) == pytest.approx(t, abs=2e-9)


def test_with_many_degrees_of_freedom_it_is_the_normal_distribution() -> None:
    assert student_t_quantile(0.975, 100_000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-4)


@given(p=st.floats(0.0005, 0.9995), df=st.integers(1, 200))
def test_the_quantile_undoes_the_distribution_function(p: float, df: int) -> None:
    assert student_t_cdf(student_t_quantile(p, df), df) == pytest.approx(p, abs=1e-9)


@pytest.mark.parametrize(("p", "df"), [(0.0, 3), (1.0, 3), (-1.0, 3), (float("nan"), 3)])
def test_a_probability_outside_zero_and_one_is_refused(p: float, df: int) -> None:
    with pytest.raises(ValueError, match="p must lie"):
        student_t_quantile(p, df)


@pytest.mark.parametrize(("n", "k"), [(5, 1), (20, 1), (20, 3)])
def test_of_no_op_candidates_five_in_a_hundred_are_called_better_or_worse(n: int, k: int) -> None:
    rng = random.Random(n * 100 + k)
    trials, called = 4000, 0
    for _ in range(trials):
        known = baseline([rng.gauss(4.39, 0.033) for _ in range(n)])
        runs = [evaluation(rng.gauss(4.39, 0.033), ratio=rng.uniform(0.91, 1.09)) for _ in range(k)]
        called += score(runs, known, "min").verdict != "within_noise"
    assert called / trials == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


def test_at_another_compute_the_noise_of_the_curve_counts_too() -> None:
    rng = random.Random(5)
    trials, called = 4000, 0
    for _ in range(trials):
        at_one = [rng.gauss(4.39, 0.033) for _ in range(20)]
        above = [rng.gauss(4.20, 0.033) for _ in range(3)]
        points = [
            CurvePoint(compute=1.0, mean=statistics.fmean(at_one), sd=0.0, n=20),
            CurvePoint(compute=1.5, mean=statistics.fmean(above), sd=0.0, n=3),
        ]
        known = baseline(at_one, points)
        called += score([evaluation(rng.gauss(4.20, 0.033), ratio=1.65)], known, "min").verdict != "within_noise"
    assert called / trials == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


@pytest.mark.parametrize(
    ("direction", "shift", "verdict"),
    [
        ("min", -0.5, "better"),
        ("min", 0.5, "worse"),
        ("max", 0.5, "better"),
        ("max", -0.5, "worse"),
        ("max", 0, "within_noise"),
    ],
)
def test_the_direction_says_which_side_is_better(direction: Literal["min", "max"], shift: float, verdict: str) -> None:
    assert score([evaluation(FIVE.mean + shift)], FIVE, direction).verdict == verdict


def test_the_interval_is_the_stated_one() -> None:
    found = score([evaluation(4.3), evaluation(4.4, seed=1)], FIVE, "min")
    half = 2.7764451052 * FIVE.sd * math.sqrt(1 / 2 + 1 / 5)
    assert found.n == 2
    assert [found.mean, found.lo, found.hi] == pytest.approx([4.35, 4.35 - half, 4.35 + half])
    assert found.delta == pytest.approx(4.35 - FIVE.mean)


def test_one_invalid_seed_makes_the_verdict_invalid_but_keeps_the_mean() -> None:
    found = score([evaluation(3.0), evaluation(1.0, valid=False)], FIVE, "min")
    assert (found.verdict, found.mean, found.n) == ("invalid", 3.0, 1)


def test_without_evaluations_there_is_no_verdict_and_with_only_invalid_ones_it_is_invalid() -> None:
    assert score([], FIVE, "min").verdict == "none"
    assert score([evaluation(None, valid=False)], FIVE, "min").verdict == "invalid"


def test_without_a_baseline_with_a_spread_there_is_a_mean_and_no_verdict() -> None:
    for known in (None, FIVE.model_copy(update={"n": 1})):
        found = score([evaluation(4.0)], known, "min")
        assert (found.verdict, found.mean, found.lo, found.delta) == ("none", 4.0, None, None)


@pytest.mark.parametrize(
    ("ratio", "mean"),
    [
        (1.0, FIVE.mean),
        (1.1, FIVE.mean),
        (1 / 1.1, FIVE.mean),
        (1.1001, FIVE.mean),  # no jump
        (1.1 * 1.5, 4.2),
        (0.5 / 1.1, FIVE.mean),  # less compute is no excuse
        (0.2, FIVE.mean),
        (1.1 * math.sqrt(1.5), (FIVE.mean + 4.2) / 2),
        (1.1 * 2.25, 4.2 - (FIVE.mean - 4.2)),
    ],
)
def test_the_baseline_is_read_off_its_curve_in_log_compute_less_what_chance_explains(ratio: float, mean: float) -> None:
    assert baseline_at(CURVED, ratio).mean == pytest.approx(mean, abs=1e-4)


def test_half_a_cpu_second_more_or_less_is_no_compute() -> None:
    short = CURVED.model_copy(update={"cpu_s": 1.0})
    assert baseline_at(short, 1.4).mean == FIVE.mean
    assert baseline_at(short, 1.6).mean < FIVE.mean
    assert baseline_at(CURVED, 1.4).mean < FIVE.mean


def test_a_gain_that_was_bought_with_compute_is_no_gain() -> None:
    assert score([evaluation(4.2, ratio=1.0)], CURVED, "min").verdict == "better"
    assert score([evaluation(4.2, ratio=1.65)], CURVED, "min").verdict == "within_noise"
    assert score([evaluation(FIVE.mean, ratio=0.5)], CURVED, "min").verdict == "within_noise"


def test_a_patch_without_effect_is_within_noise_whatever_its_score() -> None:
    lucky = score([evaluation(3.0)], FIVE, "min")
    assert with_fidelity(lucky, "no_effect").verdict == "within_noise"
    assert with_fidelity(lucky, "effect").verdict == "better"
    caught = score([evaluation(3.0, valid=False)], FIVE, "min")
    assert with_fidelity(caught, "no_effect").verdict == "invalid"


def job(evaluation: Evaluation | None, kind: FailureClass | None = None) -> Job:
    spec = JobSpec("run", "idea", "toy", "default", 0, Patch("b", "", (), 0, 0, ""), "t")
    failure = Failure(kind, "why") if kind else None
    state = JobState.SUCCEEDED if evaluation else JobState.FAILED if failure else JobState.RUNNING
    return Job("id", "key", spec, state, 1, failure, evaluation)


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ([], "better"),
        ([FailureClass.CODE], "invalid"),
        ([FailureClass.TIMEOUT, FailureClass.INFRA], "invalid"),
        ([FailureClass.INFRA], "none"),
        ([None], "none"),
    ],
)
def test_a_seed_at_which_the_program_fails_is_not_left_out(kinds: list[FailureClass | None], verdict: str) -> None:
    lucky = evaluation(3.0)
    jobs = [job(lucky), *(job(None, kind) for kind in kinds)]
    found = with_failed_jobs(score([lucky], FIVE, "min"), jobs)
    assert (found.verdict, found.mean, found.n) == (verdict, 3.0, 1)


def test_where_no_seed_was_measured_there_is_no_verdict() -> None:
    assert with_failed_jobs(score([], FIVE, "min"), [job(None, FailureClass.CODE)]).verdict == "none"
