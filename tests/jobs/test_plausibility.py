"""What is flagged for a person: never a failure, and nothing about an ordinary result."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_runs import baseline

from xar_agent.envs.spec import CurvePoint as PointOfBaseline
from xar_agent.envs.spec import Preset
from xar_agent.jobs.outputs import CurvePoint
from xar_agent.jobs.plausibility import Seen, flags_of
from xar_agent.jobs.types import Evaluation

ORDINARY = Evaluation(
    "val_loss", 2.46, "min", True, (), (), 1, 1.0, 10.0, 11.0, 1000, "tree", "c", "env1", "eval1", "data", "machine"
)
CURVE = tuple(CurvePoint(step, 10 * step, 5.0 - 0.025 * step) for step in range(1, 101))
PRESET = Preset(budget=1000, clock="tokens", wall_s=60.0)
SEEN = Seen(PRESET, baseline(mean=2.5, sd=0.02), CURVE, 10.0)


def names(evaluation: Evaluation, seen: Seen = SEEN) -> list[str]:
    """What the flags are about."""
    return [flag.partition(":")[0] for flag in flags_of(evaluation, seen)]


def test_an_ordinary_result_has_no_flags() -> None:
    assert flags_of(ORDINARY, SEEN) == ()


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"value": 2.33}, "large_gain"),
        ({"value": 2.29}, "floor"),
        ({"tokens": 500}, "few_tokens"),
        ({"compute_ratio": 0.2}, "fast_training"),
        ({"compute_ratio": 1.7}, "compute"),
        ({"value": 3.6}, "curve"),
    ],
)
def test_what_is_odd_is_flagged_by_name(change: dict[str, float], flag: str) -> None:
    assert names(replace(ORDINARY, **change)) == [flag]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained_s", "wall_s", "flags"),
    [
        (485.0, 560.0, []),
        (505.0, 580.0, ["overtime"]),
        (481.0, 800.0, ["late_start"]),
        (100.0, 150.0, ["fast_training"]),
    ],
)
def test_seconds_that_no_budget_holds_are_flagged(trained_s: float, wall_s: float, flags: list[str]) -> None:
    preset = PRESET.model_copy(update={"clock": "seconds", "budget": 480})
    seen = replace(SEEN, preset=preset, trained_s=trained_s)
    assert names(replace(ORDINARY, train_wall_s=wall_s), seen) == flags


def test_a_preset_may_name_its_own_floor() -> None:
    own = replace(SEEN, preset=PRESET.model_copy(update={"settings": {"floor": 2.47}}))
    assert flags_of(ORDINARY, own) == ("floor: 2.4600 is beyond 2.4700, where a result needs an explanation",)


def test_more_is_better_where_the_direction_is_max() -> None:
    reward = replace(ORDINARY, metric="reward", direction="max", value=2.72)
    assert names(reward) == ["floor"]
    assert names(replace(reward, value=2.2)) == []


def test_a_forged_curve_that_ends_elsewhere_is_flagged_and_so_is_none() -> None:
    forged = replace(SEEN, curve=tuple(replace(point, loss=0.1) for point in CURVE))
    (flag,) = flags_of(ORDINARY, forged)
    assert flag == "curve: the program's own loss ends at 0.1000, the evaluator found 2.4600"
    assert names(ORDINARY, replace(SEEN, curve=())) == ["curve"]


def test_seconds_are_held_against_the_budget_of_seconds() -> None:
    seconds = PRESET.model_copy(update={"clock": "seconds", "budget": 480})
    assert names(replace(ORDINARY, tokens=5), Seen(seconds, None, CURVE, 470.0)) == []
    assert names(ORDINARY, Seen(seconds, None, CURVE, 100.0)) == ["fast_training"]


def test_without_a_value_only_the_effort_is_judged() -> None:
    assert names(replace(ORDINARY, value=None, tokens=1)) == ["few_tokens"]


def test_what_more_compute_buys_is_no_surprise() -> None:
    points = [PointOfBaseline(compute=c, mean=m, sd=0.02, n=5) for c, m in ((1.0, 2.5), (1.5, 2.3))]
    seen = replace(SEEN, baseline=baseline(mean=2.5, sd=0.02).model_copy(update={"curve": points}))
    good = replace(ORDINARY, value=2.28)
    assert names(good, seen) == ["floor"]
    assert names(replace(good, compute_ratio=1.5), seen) == []
