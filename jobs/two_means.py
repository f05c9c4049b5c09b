"""Two means compared: an interval of their difference and a one-sided p-value, by Welch's and by Student's t.

Welch's test does not take both spreads for alike, but it is too optimistic far out in the tails where one mean has few
values: three are alike by luck now and then. Student's, with both spreads pooled, is exact where they are alike. The
larger p-value and the wider interval of the two count.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from xar_agent.jobs.scoring import CONFIDENCE, student_t_cdf, student_t_quantile

SMALLEST = sys.float_info.epsilon
"""No smaller p-value is claimed: the distribution function is not more precise."""

MeanVariance = tuple[float, int]
"""Variance of a mean (s squared over n), and its degrees of freedom (n - 1)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a difference of two means is worth."""

    lo: float
    hi: float
    """95 % confidence interval of the difference."""
    p: float
    """Probability of such a difference or a larger one if there were none: one-sided."""
    df: int
    """Degrees of freedom; Welch's rounded down, which makes interval and p-value wider by a little."""


def compare(difference: float, first: MeanVariance, second: MeanVariance) -> Comparison:
    """The more careful answer of Welch's and Student's test.

    Args:
        difference: of the means, positive where the first one is the better.
        first: of the first mean.
        second: of the second mean.

    Raises:
        ValueError: a mean has no degree of freedom.
    """
    one, other = welch(difference, first, second), student(difference, first, second)
    wider = one if one.hi - one.lo >= other.hi - other.lo else other
    return Comparison(wider.lo, wider.hi, max(one.p, other.p), wider.df)


def welch(difference: float, first: MeanVariance, second: MeanVariance) -> Comparison:
    """Without the assumption that the spreads are alike (Welch 1947, Satterthwaite's df)."""
    (variance_a, df_a), (variance_b, df_b) = checked(first, second)
    variance = variance_a + variance_b
    if variance == 0:
        return by_t(difference, 0.0, df_a + df_b)
    df = max(1, math.floor(variance**2 / (variance_a**2 / df_a + variance_b**2 / df_b) + 1e-9))
    return by_t(difference, math.sqrt(variance), df)


def student(difference: float, first: MeanVariance, second: MeanVariance) -> Comparison:
    """With one spread that both samples estimate (Student 1908)."""
    (variance_a, df_a), (variance_b, df_b) = checked(first, second)
    n_a, n_b = df_a + 1, df_b + 1
    pooled = (df_a * variance_a * n_a + df_b * variance_b * n_b) / (df_a + df_b)
    return by_t(difference, math.sqrt(pooled * (1 / n_a + 1 / n_b)), df_a + df_b)


def by_t(difference: float, error: float, df: int) -> Comparison:
    """Interval and p-value of a difference with this standard error; without any spread only the sign counts."""
    if error == 0:
        certain = 0.5 if difference == 0 else float(difference < 0)
        return Comparison(difference, difference, max(certain, SMALLEST), df)
    half_width = student_t_quantile((1 + CONFIDENCE) / 2, df) * error
    p = max(student_t_cdf(-difference / error, df), SMALLEST)
    return Comparison(difference - half_width, difference + half_width, p, df)


def checked(first: MeanVariance, second: MeanVariance) -> tuple[MeanVariance, MeanVariance]:
    """Both means.

    Raises:
        ValueError: one has no degree of freedom.
    """
    if min(first[1], second[1]) < 1:
        raise ValueError("each mean needs at least two values")
    return first, second
