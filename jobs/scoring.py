"""Evaluations against the baseline: one score, its interval, and a verdict by a rule that was fixed beforehand.

The rule: with k valid seeds and a baseline of n seeds with standard deviation s, a mean of k further baseline runs
would lie within t(0.975, n - 1) * s * sqrt(1/k + 1/n) of the baseline's mean in 95 of 100 cases. A candidate outside is
better or worse. The baseline's mean is taken at the candidate's own compute where that is more than the baseline's,
less a factor of 1.1 (or half a CPU second where that is more), since CPU time of identical work varies by as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist
from typing import Literal

from xar_agent.envs.spec import Baseline, CurvePoint
from xar_agent.jobs.types import Evaluation, FailureClass, Fidelity, Job, Score, Verdict

CONFIDENCE = 0.95
TOLERANCE = 0.10
"""Share by which the CPU time of identical work varies on a shared machine (seen: 0.83 to 1.13)."""
TOLERANCE_CPU_S = 0.5
"""The same in CPU seconds: starting programs costs more or less, which counts for much in a run of one second."""


def student_t_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's distribution (Abramowitz & Stegun 26.7.3 and 26.7.4: finite sums, exact for whole df)."""
    if df < 1:
        raise ValueError(f"df must be at least 1, not {df}")
    theta = math.atan(t / math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    odd = df % 2
    term, total = 1.0, 0.0
    for k in range(1 + odd, df, 2):  # 1 + 1/2 c^2 + 1*3/(2*4) c^4 ... for even df; 1 + 2/3 c^2 + ... for odd
        total += term
        term *= cos2 * k / (k + 1)
    if odd:
        return 0.5 + (theta + math.sin(theta) * math.cos(theta) * total) / math.pi
    return 0.5 + math.sin(theta) * total / 2


@cache
def student_t_quantile(p: float, df: int) -> float:
    """The t with P(T <= t) = p, to about 1e-12, by bisection.

    Raises:
        ValueError: p is not between 0 and 1.
    """
    if not 0 < p < 1:
        raise ValueError(f"p must lie between 0 and 1, not {p}")
    if p < 0.5:
        return -student_t_quantile(1 - p, df)
    lo, hi = 0.0, 1.0
    while student_t_cdf(hi, df) < p:
        lo, hi = hi, 2 * hi
    for _ in range(200):
        middle = (lo + hi) / 2
        if middle in (lo, hi):
            break
        lo, hi = (middle, hi) if student_t_cdf(middle, df) < p else (lo, middle)
    return (lo + hi) / 2


@dataclass(frozen=True, slots=True)
class ExpectedBaseline:
    """The baseline's mean at some compute."""

    mean: float
    inverse_n: float
    """Variance of that mean in units of s squared: 1/n at a measured point, combined between two."""


def charged_compute(baseline: Baseline, ratio: float) -> float:
    """The compute that counts: the measured ratio less what chance explains, and never less than the baseline's.

    Less compute earns no easier comparison: CPU time shrinks by chance too (0.67 was seen for identical work on a busy
    machine), and all three of 40 no-op runs that were called better had been excused that way.
    """
    return max(1.0, ratio / (1 + max(TOLERANCE, TOLERANCE_CPU_S / baseline.cpu_s)))


def baseline_at(baseline: Baseline, ratio: float) -> ExpectedBaseline:
    """The baseline's mean at the compute that a candidate with this measured ratio is charged for.

    Linear in log compute between the points of the curve. Above the last point the last slope goes on, because a plain
    hold would reward a candidate for bought compute.
    """
    plain = ExpectedBaseline(baseline.mean, 1 / baseline.n)
    points = sorted(baseline.curve, key=lambda point: point.compute)
    compute = charged_compute(baseline, ratio)
    if compute == 1 or len(points) < 2:
        return plain
    above = next((i for i, point in enumerate(points) if i > 0 and point.compute >= compute), len(points) - 1)
    return between(points[above - 1], points[above], compute)


def between(left: CurvePoint, right: CurvePoint, compute: float) -> ExpectedBaseline:
    """On the line through two points, in log compute."""
    w = math.log(compute / left.compute) / math.log(right.compute / left.compute)
    mean = (1 - w) * left.mean + w * right.mean
    return ExpectedBaseline(mean, (1 - w) ** 2 / left.n + w**2 / right.n)


def prediction_half_width(baseline: Baseline, k: int, inverse_n: float) -> float:
    """Half of the two-sided 95 % prediction interval of a mean of k further baseline runs, in the metric's unit."""
    t = student_t_quantile((1 + CONFIDENCE) / 2, baseline.n - 1)
    return t * baseline.sd * math.sqrt(1 / k + inverse_n)


def verdict_of(delta: float, half_width: float, direction: Literal["min", "max"]) -> Verdict:
    """Whether a difference to the baseline is more than chance allows, and in which direction."""
    if abs(delta) <= half_width:
        return "within_noise"
    return "better" if (delta < 0) == (direction == "min") else "worse"


def score(evaluations: Sequence[Evaluation], baseline: Baseline | None, direction: Literal["min", "max"]) -> Score:
    """Several seeds of one candidate as one score.

    One invalid seed makes the verdict "invalid": a leak caught once is a leak. Without a baseline of at least two seeds
    the verdict is "none".
    """
    valid = [e for e in evaluations if e.valid and e.value is not None]
    values = [e.value for e in valid if e.value is not None]
    if not values:
        return Score(None, None, None, 0, None, None, "invalid" if evaluations else "none")
    mean = math.fsum(values) / len(values)
    k = len(values)
    if baseline is None or baseline.n < 2:
        return Score(mean, None, None, k, None, None, "none" if len(valid) == len(evaluations) else "invalid")
    expected = baseline_at(baseline, math.fsum(e.compute_ratio for e in valid) / k)
    half_width = prediction_half_width(baseline, k, expected.inverse_n)
    delta = mean - expected.mean
    verdict = verdict_of(delta, half_width, direction) if len(valid) == len(evaluations) else "invalid"
    return Score(mean, mean - half_width, mean + half_width, k, expected.mean, delta, verdict)


def with_failed_jobs(found: Score, jobs: Sequence[Job]) -> Score:
    """The score of a candidate of which some seeds were never measured: it has no good verdict.

    A seed at which its program fails counts against it: else a program could leave the seeds out that look unlucky.
    Where the house failed, or a job has not ended, there is no verdict yet. Without any evaluation there is none.
    """
    missing = [job for job in jobs if job.evaluation is None]
    if not missing or found.verdict == "invalid" or len(missing) == len(jobs):
        return found
    own_fault = any(job.failure is not None and job.failure.kind is not FailureClass.INFRA for job in missing)
    return replace(found, verdict="invalid" if own_fault else "none")


def with_fidelity(found: Score, fidelity: Fidelity) -> Score:
    """A patch without effect cannot be better or worse: what it differs by is chance."""
    if fidelity == "no_effect" and found.verdict in ("better", "worse"):
        return replace(found, verdict="within_noise")
    return found


def expected_best(n: int, baseline: Baseline, direction: Literal["min", "max"]) -> float:
    """Mean of the best of ``n`` runs of the unchanged repository, in the metric's unit: what luck alone gives.

    The scores are taken as normal with the baseline's mean and standard deviation.

    Raises:
        ValueError: n is less than one.
    """
    return on_good_side(baseline, expected_maximum(n), direction)


def luck(n: int, baseline: Baseline, direction: Literal["min", "max"]) -> tuple[float, float]:
    """Mean of the best of ``n`` baseline runs, and what that best one passes with a probability of 5 % only.

    Raises:
        ValueError: n is less than one.
    """
    bound = NormalDist().inv_cdf(CONFIDENCE ** (1 / n))
    return expected_best(n, baseline, direction), on_good_side(baseline, bound, direction)


def on_good_side(baseline: Baseline, z: float, direction: Literal["min", "max"]) -> float:
    """The score that is z standard deviations better than the baseline's mean."""
    return baseline.mean + (-z if direction == "min" else z) * baseline.sd


@cache
def expected_maximum(n: int) -> float:
    """Mean of the largest of ``n`` standard normal variables, to about 1e-9 up to a million.

    It is the integral of n x phi(x) Phi(x)^(n-1); the trapezium rule converges fast for an integrand that is smooth and
    vanishes at both ends.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    normal, step, edge = NormalDist(), 0.005, 9.0
    points = (-edge + i * step for i in range(round(2 * edge / step) + 1))
    return step * math.fsum(n * x * normal.pdf(x) * normal.cdf(x) ** (n - 1) for x in points)
