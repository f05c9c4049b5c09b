"""Welch's t: two means with spreads of their own, as an interval of their difference and a one-sided p-value."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from xar_agent.jobs.scoring import CONFIDENCE, student_t_cdf, student_t_quantile

SMALLEST = sys.float_info.epsilon
"""No smaller p-value is claimed: the distribution function is not more precise."""


@dataclass(frozen=True, slots=True)
class Welch:
    """What a difference of two means is worth."""

    lo: float
    hi: float
    """95 % confidence interval of the difference."""
    p: float
    """Probability of such a difference or a larger one if there were none: one-sided."""
    df: int
    """Degrees of freedom, rounded down, which makes interval and p-value wider by a little."""


def welch(difference: float, first: tuple[float, int], second: tuple[float, int]) -> Welch:
    """Compare two means without the assumption that their spreads are alike (Welch 1947, Satterthwaite's df).

    Args:
        difference: of the means, positive where the first one is the better.
        first: variance of the first mean (s squared over n), and its degrees of freedom.
        second: the same of the second mean.

    Raises:
        ValueError: a mean has no degree of freedom.
    """
    (variance_a, df_a), (variance_b, df_b) = first, second
    if min(df_a, df_b) < 1:
        raise ValueError("each mean needs at least two values")
    variance = variance_a + variance_b
    if variance == 0:
        certain = 0.5 if difference == 0 else float(difference < 0)
        return Welch(difference, difference, max(certain, SMALLEST), df_a + df_b)
    df = max(1, math.floor(variance**2 / (variance_a**2 / df_a + variance_b**2 / df_b) + 1e-9))
    error = math.sqrt(variance)
    half_width = student_t_quantile((1 + CONFIDENCE) / 2, df) * error
    p = max(student_t_cdf(-difference / error, df), SMALLEST)
    return Welch(difference - half_width, difference + half_width, p, df)
