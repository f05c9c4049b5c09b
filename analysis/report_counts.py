"""Counts over a report: completion rates, epochs, failures by class, and what luck alone would have given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xar_agent.analysis.report import Entry, RunReport
from xar_agent.envs.spec import Baseline
from xar_agent.jobs.scoring import luck

NORMAL_975 = 1.959963984540054
"""97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many ideas became a valid score, with the 95 % interval of that share."""

    valid: int
    ideas: int
    """With a result; those still open and those that repeat another's tree do not count."""
    open: int
    repeats: int

    @property
    def share(self) -> float | None:
        """valid / ideas."""
        return self.valid / self.ideas if self.ideas else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval."""
        return wilson_interval(self.valid, self.ideas)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: its rate, its best, and the best up to its end."""

    number: int
    rate: Rate
    best: Entry | None
    best_so_far: Entry | None


@dataclass(frozen=True, slots=True)
class FailureCount:
    """One class of failure."""

    kind: str
    """Of the list of failure classes, else how the episode ended: ``gave_up``, ``over_budget``, ``stuck``."""
    count: int
    latest: Entry


@dataclass(frozen=True, slots=True)
class Luck:
    """What chance alone would have found: the best of as many runs of the unchanged repository."""

    n: int
    mean: float
    bound: float
    """19 of 20 such searches do not pass it."""


def rate_of(entries: Sequence[Entry]) -> Rate:
    """How many of these became a valid score."""
    still, repeats = sum(entry.open for entry in entries), sum(bool(entry.same_as) for entry in entries)
    return Rate(sum(entry.valid for entry in entries), len(entries) - still - repeats, still, repeats)


def rates_of(report: RunReport) -> dict[tuple[int, str], Rate]:
    """By epoch and origin, in that order."""
    keys = sorted({(entry.candidate.idea.epoch, entry.candidate.idea.origin) for entry in report.entries})
    return {
        key: rate_of([e for e in report.entries if (e.candidate.idea.epoch, e.candidate.idea.origin) == key])
        for key in keys
    }


def epochs_of(report: RunReport) -> tuple[Epoch, ...]:
    """One row an epoch."""
    numbers = sorted({entry.candidate.idea.epoch for entry in report.entries})
    best = [next((e for e in report.valid if e.candidate.idea.epoch == number), None) for number in numbers]
    so_far = [next((e for e in report.valid if e.candidate.idea.epoch <= number), None) for number in numbers]
    rates = [rate_of([e for e in report.entries if e.candidate.idea.epoch == number]) for number in numbers]
    return tuple(Epoch(*row) for row in zip(numbers, rates, best, so_far, strict=True))


def failures_of(report: RunReport) -> tuple[FailureCount, ...]:
    """By class, the most frequent first."""
    latest: dict[str, Entry] = {}
    counts: dict[str, int] = {}
    for entry in report.in_order:
        if entry.reason is not None:
            latest[entry.reason.name] = entry
            counts[entry.reason.name] = counts.get(entry.reason.name, 0) + 1
    return tuple(
        FailureCount(kind, counts[kind], latest[kind]) for kind in sorted(counts, key=lambda k: (-counts[k], k))
    )


def luck_of(report: RunReport) -> Luck | None:
    """The best of as many null runs as the run has valid scores; None without a baseline of two seeds or a score."""
    return luck_after(report, len(report.valid))


def luck_after(report: RunReport, n: int) -> Luck | None:
    """The best of ``n`` null runs."""
    baseline = null_scores(report)
    if baseline is None or n < 1:
        return None
    return Luck(n, *luck(n, baseline, "max" if report.direction == "max" else "min"))


def is_beyond(report: RunReport, luck_alone: Luck) -> bool:
    """The best gain, at its own compute, is more than the bound of what luck gives."""
    gain = report.best.gain if report.best else None
    return gain is not None and report.baseline is not None and gain > abs(luck_alone.bound - report.baseline.mean)


def null_scores(report: RunReport) -> Baseline | None:
    """How the unchanged repository's scores vary, when each is a mean over as many seeds as a candidate's."""
    if report.baseline is None or report.baseline.n < 2:
        return None
    sd = report.baseline.sd / math.sqrt(report.seeds)
    return report.baseline.model_copy(update={"sd": sd})


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) when nothing was tried."""
    if n == 0:
        return (0.0, 1.0)
    share, z2 = successes / n, NORMAL_975**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_975 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (max(0.0, middle - half), min(1.0, middle + half))
