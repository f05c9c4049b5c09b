"""What a person should look at before believing a result. It flags; it never fails a run and never changes a score.

The paper's code drops losses below 2.5 without a word. Here such a result keeps its score, and its flag says why a
person should read the patch first.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from xar_agent.envs.spec import Baseline, Preset
from xar_agent.jobs.outputs import CurvePoint
from xar_agent.jobs.scoring import baseline_at
from xar_agent.jobs.types import Evaluation

FLOOR_SD = 10.0
LARGE_GAIN_SD = 8.0
"""A better optimizer can be beyond that; such gains are rare, and worth a look each time."""
FAST_SHARE = 0.3
"""Of the baseline's CPU seconds, or of a budget of seconds."""
OVERTIME_SHARE, LEAST_OVERTIME_S = 0.02, 10.0
"""Saving takes some seconds; more of them are training that no budget holds, and up to a tenth is not charged."""
LATE_START_S = 240.0
"""Before the first token: compiling takes a minute or two, and what else is learnt there no clock of tokens counts."""
FEW_TOKENS_SHARE = 0.9
ODD_RATIO = 1.5
CURVE_TAIL = 0.1
"""Share of the curve's points that stand for its end."""
CURVE_SHARE, CURVE_NATS = 0.25, 0.3
"""How far the end of the candidate's own training loss may be from the evaluated loss, whichever is more: batches are
small, and validation text is other text."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a result is judged by besides its evaluation."""

    preset: Preset
    baseline: Baseline | None
    curve: tuple[CurvePoint, ...]
    """The candidate's own word."""
    trained_s: float


def flags_of(evaluation: Evaluation, seen: Seen) -> tuple[str, ...]:
    """One line for each thing that is odd, its name in front."""
    value = evaluation.value
    found = [*effort_flags(evaluation, seen)]
    if value is not None:
        found += value_flags(value, evaluation.direction, evaluation.compute_ratio, seen)
        found += curve_flags(value, evaluation, seen)
    return tuple(found)


def value_flags(value: float, direction: Literal["min", "max"], compute_ratio: float, seen: Seen) -> Iterator[str]:
    """A value that is better than one should expect with as much compute."""
    sign, baseline = (1.0 if direction == "min" else -1.0), seen.baseline
    expected = baseline_at(baseline, compute_ratio).mean if baseline is not None and baseline.n > 1 else None
    floor = floor_of(direction, expected, seen)
    if floor is not None and sign * (floor - value) > 0:
        yield f"floor: {value:.4f} is beyond {floor:.4f}, where a result needs an explanation"
        return
    if baseline is None or expected is None or baseline.sd <= 0:
        return
    gain_sd = sign * (expected - value) / baseline.sd
    if gain_sd > LARGE_GAIN_SD:
        yield f"large_gain: {gain_sd:.1f} standard deviations better than the baseline"


def floor_of(direction: Literal["min", "max"], expected: float | None, seen: Seen) -> float | None:
    """The preset's ``floor``, else ten standard deviations beyond what is expected; None without either."""
    named = seen.preset.settings.get("floor")
    if isinstance(named, int | float):
        return float(named)
    if seen.baseline is None or expected is None:
        return None
    return expected + (-FLOOR_SD if direction == "min" else FLOOR_SD) * seen.baseline.sd


def effort_flags(evaluation: Evaluation, seen: Seen) -> Iterator[str]:
    """Less or more work than the score should have cost."""
    budget, ratio = seen.preset.budget, evaluation.compute_ratio
    if seen.preset.clock == "seconds":
        if seen.trained_s < FAST_SHARE * budget:
            yield f"fast_training: ended after {seen.trained_s:.0f} of {budget} seconds"
        if seen.trained_s - budget > max(LEAST_OVERTIME_S, OVERTIME_SHARE * budget):
            yield f"overtime: went on {seen.trained_s - budget:.0f} s after its budget of {budget} seconds"
        if evaluation.train_wall_s - seen.trained_s > LATE_START_S:
            yield f"late_start: {evaluation.train_wall_s - seen.trained_s:.0f} s before its first token"
        return
    if seen.preset.data == "stream" and evaluation.tokens < FEW_TOKENS_SHARE * budget:
        yield f"few_tokens: took {evaluation.tokens:,} of {budget:,} {seen.preset.clock}"
    if 0 < ratio < FAST_SHARE:
        yield f"fast_training: {ratio:.2f} of the baseline's CPU seconds"
    if ratio > ODD_RATIO:
        yield f"compute: {ratio:.2f} times the baseline's CPU seconds"


def curve_flags(value: float, evaluation: Evaluation, seen: Seen) -> Iterator[str]:
    """A curve that tells of another training than the one that was scored."""
    losses = [point.loss for point in seen.curve if point.loss is not None]
    if "loss" not in evaluation.metric:
        return
    if not losses:
        yield "curve: the program wrote none"
        return
    end = statistics.fmean(losses[-max(1, round(CURVE_TAIL * len(losses))) :])
    if abs(end - value) > max(CURVE_NATS, CURVE_SHARE * abs(value)):
        yield f"curve: the program's own loss ends at {end:.4f}, the evaluator found {value:.4f}"
