"""How often ``confirm`` errs and how often it finds a gain: the figures of docs/scores.md, by simulation.

python benchmarks/confirm_rule/simulate.py     (half a minute on one core; needs numpy)

Scores are normal with the baseline's spread as unit. Means and variances of samples are drawn directly; decisions are
those of ``jobs.two_means.compare`` below a level: ``check`` compares them one by one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from xar_agent.jobs.scoring import student_t_quantile
from xar_agent.jobs.two_means import compare

ALPHA = 0.05
SEEDS = (3, 5, 8)
BASELINES = (12, 24)
N_ERRORS, N_NOISIER, N_POWER, CHUNK = 400_000, 200_000, 200_000, 40_000

Array = np.ndarray[Any, Any]


@cache
def bound(df: int, level: float) -> float:
    """t above which the one-sided p-value is below the level."""
    return student_t_quantile(1 - level, df)


def passed(gain: Array, variance: Array, k: int, base_variance: Array, n: int, level: float) -> Array:
    """Whether both tests' p-values are below the level: sample variances of k seeds and of n baseline runs."""
    ours, theirs = variance / k, base_variance / n
    df = np.floor((ours + theirs) ** 2 / (ours**2 / (k - 1) + theirs**2 / (n - 1)) + 1e-9).astype(int)
    bounds = np.array([0.0, *(bound(d, level) for d in range(1, k + n - 1))])
    pooled = ((k - 1) * variance + (n - 1) * base_variance) / (k + n - 2)
    welch = gain / np.sqrt(ours + theirs) > bounds[np.maximum(1, df)]
    student = gain / np.sqrt(pooled * (1 / k + 1 / n)) > bound(k + n - 2, level)
    return np.asarray(welch & student)


def draw(
    rng: np.random.Generator, runs: int, looks: int, k: int, n: int, *, gain: float = 0.0, spread: float = 1.0
) -> tuple[Array, Array, Array]:
    """Gains and sample variances of all looks of many runs, each run with one baseline."""
    base = rng.normal(0, n**-0.5, (runs, 1))
    base_variance = rng.gamma((n - 1) / 2, 2 / (n - 1), (runs, 1))
    mean = rng.normal(0, spread * k**-0.5, (runs, looks))
    variance = spread**2 * rng.gamma((k - 1) / 2, 2 / (k - 1), (runs, looks))
    return base - mean + gain, variance, base_variance


def any_confirmed(rng: np.random.Generator, k: int, n: int, looks: int, runs: int, spread: float = 1.0) -> float:
    """Share of runs with a confirmed candidate when none is better and all are corrected for all."""
    hits = 0
    for _ in range(runs // CHUNK):
        gain, variance, base = draw(rng, CHUNK, looks, k, n, spread=spread)
        hits += int(passed(gain, variance, k, base, n, ALPHA / looks).any(axis=1).sum())
    return hits / runs


def one_by_one(rng: np.random.Generator, k: int, n: int, looks: int, runs: int) -> float:
    """The same when each look is judged as soon as it is there."""
    hits = 0
    for _ in range(runs // CHUNK):
        gain, variance, base = draw(rng, CHUNK, looks, k, n)
        each = [passed(gain[:, i], variance[:, i], k, base[:, 0], n, ALPHA / (i + 1)) for i in range(looks)]
        hits += int(np.any(each, axis=0).sum())
    return hits / runs


def power(rng: np.random.Generator, k: int, n: int, looks: int, gain: float) -> float:
    """Share of looks at a candidate with this gain that are confirmed, in a run of so many looks."""
    gains, variance, base = draw(rng, N_POWER, 1, k, n, gain=gain)
    return float(passed(gains, variance, k, base, n, ALPHA / looks).mean())


def check(rng: np.random.Generator, k: int, n: int, level: float) -> None:
    """Stop when a decision is not that of the program."""
    gain, variance, base = draw(rng, 1000, 1, k, n, gain=1.5)
    ours = passed(gain, variance, k, base, n, level)[:, 0]
    rows = zip(gain[:, 0], variance[:, 0], base[:, 0], strict=True)
    theirs = [compare(float(g), (float(v) / k, k - 1), (float(b) / n, n - 1)).p < level for g, v, b in rows]
    assert ours.tolist() == theirs


def percent(*shares: float) -> str:
    """``2.7 / 2.2 %``."""
    return " / ".join(f"{100 * share:.1f}" for share in shares) + " %"


def main() -> None:
    """All tables."""
    rng = np.random.default_rng(1)
    check(rng, 3, 12, 0.05)
    check(rng, 8, 24, 0.0025)
    for k in SEEDS:
        for looks in (1, 5, 20):
            print(
                f"errors: {k} seeds, {looks} looks:",
                percent(*(any_confirmed(rng, k, n, looks, N_ERRORS) for n in BASELINES)),
            )
    for k in SEEDS:
        print(f"ten looks one by one: {k} seeds:", percent(*(one_by_one(rng, k, n, 10, N_ERRORS) for n in BASELINES)))
    for k in (3, 5):
        for looks in (1, 5, 20):
            shares = (any_confirmed(rng, k, n, looks, N_NOISIER, spread=2.0) for n in BASELINES)
            print(f"twice as noisy: {k} seeds, {looks} looks:", percent(*shares))
    for looks in (1, 5):
        for k in SEEDS:
            print(f"power: {k} seeds, {looks} looks:", percent(*(power(rng, k, 12, looks, g) for g in (1, 1.5, 2, 3))))


if __name__ == "__main__":
    main()
