"""Selection is a pure function of what was tried and of injected chance."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from landscape import BASELINE, scored

from xar_agent.agent.types import Idea
from xar_agent.errors import UnknownName
from xar_agent.jobs.types import FailureClass
from xar_agent.population.policies import (
    POLICIES,
    Stage,
    best,
    best_of_n,
    exploit_share,
    exploits_at,
    hill_climb,
    paper,
    policy_of,
)
from xar_agent.population.types import Outcome


def outcome(point: float, value: float) -> Outcome:
    return scored(Idea(f"Go to {point}", "landscape"), value)


BETTER = [outcome(0.1, BASELINE - 0.2), outcome(0.2, BASELINE - 0.1), outcome(0.3, BASELINE - 1e-6)]
WORSE = [outcome(0.4, BASELINE + 0.1), outcome(0.5, BASELINE)]
FAILED = [Outcome(Idea("Go to 0.6", "landscape"), failure=FailureClass.NAN, reason="nan")]
TRIED = [*WORSE, *BETTER, *FAILED]


@pytest.mark.parametrize(
    ("epoch", "share"), [(1, 0.5), (2, 0.6), (3, 0.6), (4, 0.7), (5, 0.7), (6, 0.8), (7, 0.8), (9, 0.8), (100, 0.8)]
)
def test_the_share_of_exploitation_is_the_papers(epoch: int, share: float) -> None:
    assert exploit_share(epoch) == pytest.approx(share)


@pytest.mark.parametrize("n_ideas", [80, 50, 12, 7, 1])
@pytest.mark.parametrize("epoch", [1, 2, 5, 9])
def test_an_epoch_of_the_paper_has_exactly_that_share_however_it_is_planned(n_ideas: int, epoch: int) -> None:
    for part in (1, 3, n_ideas):
        slots = []
        for first in range(0, n_ideas, part):
            stage = Stage(epoch, n_ideas, first, min(part, n_ideas - first))
            slots += paper(stage, TRIED, random.Random(first))
        counts = Counter(slot.origin for slot in slots)
        assert counts["exploit"] == int(exploit_share(epoch) * n_ideas + 0.5)
        assert counts["exploit"] + counts["explore"] == n_ideas


def test_parents_are_drawn_uniformly_from_all_that_beat_the_baseline_by_whatever_amount() -> None:
    rng = random.Random(1)
    drawn = Counter(slot.parents[0] for slot in paper(Stage(9, 4000, 0, 4000), TRIED, rng) if slot.parents)
    assert set(drawn) == {one.idea.id for one in BETTER}
    expected = sum(drawn.values()) / len(BETTER)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in drawn.values())


def test_without_a_parent_that_beats_the_baseline_every_idea_explores() -> None:
    slots = paper(Stage(3, 10, 0, 10), [*WORSE, *FAILED], random.Random(1))
    assert [slot.origin for slot in slots] == ["explore"] * 10


def test_the_first_epoch_has_only_seeds() -> None:
    for policy in POLICIES.values():
        slots = policy.select(Stage(0, 5, 0, 5), TRIED, random.Random(1))
        assert [(slot.origin, slot.parents) for slot in slots] == [("seed", ())] * 5


def test_best_of_n_never_has_parents() -> None:
    assert all(not slot.parents for slot in best_of_n(Stage(4, 9, 0, 9), TRIED, random.Random(1)))


def test_hill_climbing_starts_from_the_best_one() -> None:
    slots = hill_climb(Stage(1, 4, 0, 4), TRIED, random.Random(1))
    assert [slot.parents for slot in slots] == [(BETTER[0].idea.id,)] * 4
    assert hill_climb(Stage(1, 2, 0, 2), WORSE, random.Random(1))[0].origin == "seed"


def test_a_repeated_tree_is_no_second_parent() -> None:
    twin = Outcome(Idea("Go to 0.1000", "landscape"), same_as=BETTER[0].idea.id)
    drawn = {slot.parents for slot in paper(Stage(9, 100, 0, 100), [BETTER[0], twin], random.Random(1)) if slot.parents}
    assert drawn == {(BETTER[0].idea.id,)}


def test_the_best_has_the_largest_gain_and_is_the_earlier_of_equals() -> None:
    equal = outcome(0.9, BASELINE - 0.2)
    assert best([*TRIED, equal]) == BETTER[0]
    assert best(FAILED) is None


def test_the_same_seed_gives_the_same_choice() -> None:
    stage = Stage(4, 20, 0, 20)
    assert paper(stage, TRIED, random.Random("1:4")) == paper(stage, TRIED, random.Random("1:4"))
    assert paper(stage, TRIED, random.Random("1:4")) != paper(stage, TRIED, random.Random("2:4"))


def test_a_patch_that_changes_nothing_is_no_parent_however_lucky_it_was() -> None:
    lucky = replace(outcome(0.8, BASELINE - 0.5), fidelity="no_effect")
    assert not lucky.beats_baseline
    assert best([*TRIED, lucky]) == BETTER[0]
    assert hill_climb(Stage(1, 1, 0, 1), [*TRIED, lucky], random.Random(1))[0].parents == (BETTER[0].idea.id,)


def test_exploits_are_spread_over_the_epoch() -> None:
    places = [position for position in range(10) if exploits_at(position, 5, 10)]
    assert places == [1, 3, 5, 7, 9]


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName) as refused:
        policy_of("genetic")
    assert "paper" in refused.value.hint
