"""Two means compared: against published figures, and the rate of errors when there is nothing to find."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from xar_agent.envs.spec import Baseline
from xar_agent.jobs.scoring import expected_best, expected_maximum, luck
from xar_agent.jobs.two_means import SMALLEST, compare, student, welch


def mean_of(variance: float, n: int) -> tuple[float, int]:
    """Variance of a mean of n values with this sample variance, and its degrees of freedom."""
    return variance / n, n - 1


EXAMPLES = [
    (23.0 - 20.8, mean_of(3.8, 15), mean_of(7.9, 15), 25.0, 0.021),
    (22.1 - 20.6, mean_of(0.9, 20), mean_of(9.0, 10), 9.9, 0.149),
    (21.6 - 19.4, mean_of(17.1, 20), mean_of(1.4, 10), 24.5, 0.036),
]
"""Three textbook examples, printed with two or three digits: difference, both samples, df, two-sided p."""


@pytest.mark.parametrize(("difference", "first", "second", "df", "two_sided"), EXAMPLES)
def test_the_figures_are_those_of_the_textbook(
    difference: float, first: tuple[float, int], second: tuple[float, int], df: float, two_sided: float
) -> None:
    found = welch(difference, first, second)
    assert found.df in (math.floor(df), math.floor(df - 0.06))
    assert 2 * found.p == pytest.approx(two_sided, abs=0.01)
    assert (found.lo > 0) == (two_sided < 0.05), "the interval leaves zero out exactly when the two-sided test does"
    assert found.lo + found.hi == pytest.approx(2 * difference)


@pytest.mark.parametrize(("n", "t"), [(5, 1.8595480), (7, 1.7822876), (11, 1.7247182), (21, 1.6838510)])
def test_two_alike_samples_give_the_five_percent_points_of_the_printed_table(n: int, t: float) -> None:
    found = welch(t * math.sqrt(2 / n), mean_of(1.0, n), mean_of(1.0, n))
    assert found.df == 2 * (n - 1)
    assert found.p == pytest.approx(0.05, abs=1e-7)


def test_the_figures_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for difference, first, second, _, _ in EXAMPLES:
        found = welch(difference, first, second)
        error = math.sqrt(first[0] + second[0])
        assert found.p == pytest.approx(stats.t.sf(difference / error, found.df), rel=1e-9)
        assert found.hi - difference == pytest.approx(stats.t.ppf(0.975, found.df) * error, rel=1e-9)


def test_five_in_a_hundred_candidates_that_are_no_better_pass_at_five_percent() -> None:
    rng = random.Random(7)
    trials, passed = 4000, 0
    for _ in range(trials):
        ours = [rng.gauss(0, 1) for _ in range(5)]
        base = [rng.gauss(0, 1) for _ in range(12)]
        gain = statistics.fmean(base) - statistics.fmean(ours)
        sides = mean_of(statistics.variance(ours), 5), mean_of(statistics.variance(base), 12)
        passed += welch(gain, *sides).p < 0.05
    assert passed / trials == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


@pytest.mark.parametrize(("n_seeds", "n_baseline"), [(3, 12), (3, 24), (5, 12), (8, 24)])
@pytest.mark.parametrize("level", [0.05, 0.05 / 20])
def test_the_more_careful_answer_errs_no_more_often_than_it_says_also_far_out(
    n_seeds: int, n_baseline: int, level: float
) -> None:
    rng = random.Random(n_seeds)
    trials, passed = 6000, 0
    for _ in range(trials):
        # Means and variances of normal samples, drawn directly: sums of k squares of a standard normal are chi squared.
        ours, base = rng.gauss(0, n_seeds**-0.5), rng.gauss(0, n_baseline**-0.5)
        chi = [rng.gammavariate((n - 1) / 2, 2) / (n - 1) for n in (n_seeds, n_baseline)]
        passed += compare(base - ours, mean_of(chi[0], n_seeds), mean_of(chi[1], n_baseline)).p < level
    assert passed / trials <= level + 4 * math.sqrt(level * (1 - level) / trials)


def test_the_more_careful_answer_is_one_of_the_two() -> None:
    sides = mean_of(1.0, 3), mean_of(4.0, 20)
    both = welch(1.5, *sides), student(1.5, *sides)
    found = compare(1.5, *sides)
    assert found.p == max(one.p for one in both)
    assert found.hi - found.lo == max(one.hi - one.lo for one in both)


def test_student_gives_the_five_percent_points_of_the_printed_table() -> None:
    found = student(1.7458837 * math.sqrt(1 / 5 + 1 / 13), mean_of(1.0, 5), mean_of(1.0, 13))
    assert found.df == 16
    assert found.p == pytest.approx(0.05, abs=1e-7)


def test_without_any_spread_only_the_sign_counts() -> None:
    none = (0.0, 4)
    assert [compare(d, none, none).p for d in (1.0, 0.0, -1.0)] == [SMALLEST, 0.5, 1.0]
    assert welch(1e9, (1.0, 4), (1.0, 4)).p >= SMALLEST


def test_a_single_value_has_no_spread_to_compare_with() -> None:
    with pytest.raises(ValueError, match="at least two"):
        welch(1.0, (1.0, 0), (1.0, 4))


@pytest.mark.parametrize(
    ("n", "mean"), [(1, 0.0), (2, 0.56419), (5, 1.16296), (10, 1.53875), (24, 1.94767), (100, 2.50759)]
)
def test_the_best_of_n_is_that_of_the_printed_tables(n: int, mean: float) -> None:
    assert expected_maximum(n) == pytest.approx(mean, abs=1e-5)


def test_the_best_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        expected_maximum(0)


def test_luck_is_on_the_good_side_and_passes_its_bound_one_time_in_twenty() -> None:
    base = Baseline(
        env_version="e", evaluator_version="v", preset="p", machine="m",
        mean=4.25, sd=0.014, n=20, values={}, cpu_s=70.0, curve=[],
    )  # fmt: skip
    mean, bound = luck(24, base, "min")
    assert mean == expected_best(24, base, "min") == pytest.approx(4.25 - 1.94767 * 0.014, abs=1e-6)
    assert luck(24, base, "max") == pytest.approx((2 * 4.25 - mean, 2 * 4.25 - bound))
    rng = random.Random(3)
    best = [min(rng.gauss(4.25, 0.014) for _ in range(24)) for _ in range(4000)]
    assert statistics.fmean(best) == pytest.approx(mean, abs=0.0005)
    assert sum(one < bound for one in best) / len(best) == pytest.approx(0.05, abs=0.015)
