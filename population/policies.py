"""Which ideas become parents: pure functions of what was tried and an injected source of chance, chosen by name.

A policy plans some places of an epoch at a time: it sees the outcomes in the order in which they came in, whatever
epoch they belong to, so that a late result counts as soon as it is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xar_agent.errors import UnknownName
from xar_agent.population.types import Outcome, Slot

FIRST_EXPLOIT_SHARE = 0.5
EXPLOIT_SHARE_STEP = 0.1
"""More every second epoch."""
LAST_EXPLOIT_SHARE = 0.8

IdeasFrom = Literal["model", "knobs"]
"""Who thinks of ideas: a language model, or chance over the environment's knob menu."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Which places of which epoch are to be planned."""

    epoch: int
    n_ideas: int
    """Ideas in each epoch."""
    first: int
    """Places of this epoch that are planned already."""
    count: int
    """How many to plan now."""

    @property
    def positions(self) -> range:
        """The places within the epoch."""
        return range(self.first, self.first + self.count)


Select = Callable[[Stage, Sequence[Outcome], random.Random], tuple[Slot, ...]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to search."""

    name: str
    select: Select
    ideas_from: IdeasFrom
    """By default."""
    words: str
    """For a person."""
    wait_share: float = 0.5
    """An epoch begins when this share of the results of the one before is in."""
    samples_evenly: bool = False
    """Where not all that was tried fits into a prompt: any of it alike, rather than the best and the latest first."""


def exploit_share(epoch: int) -> float:
    """Share of an epoch's ideas that improve on earlier ones, from epoch 1 on (arXiv 2601.14525, section on search)."""
    return min(FIRST_EXPLOIT_SHARE + EXPLOIT_SHARE_STEP * (epoch // 2), LAST_EXPLOIT_SHARE)


def exploits_at(position: int, n_exploit: int, n_ideas: int) -> bool:
    """Whether a place is one of the ``n_exploit`` that are spread evenly over an epoch of ``n_ideas``."""
    return (position + 1) * n_exploit // n_ideas > position * n_exploit // n_ideas


def paper(stage: Stage, outcomes: Sequence[Outcome], rng: random.Random) -> tuple[Slot, ...]:
    """The paper's search: fresh ideas in epoch 0, then a growing share of children.

    Parents are drawn uniformly from all ideas whose mean beats the baseline's, by whatever amount. While there is none,
    every idea explores.
    """
    if stage.epoch == 0:
        return seeds(stage)
    parents = [outcome.idea.id for outcome in outcomes if outcome.beats_baseline]
    n_exploit = int(exploit_share(stage.epoch) * stage.n_ideas + 0.5)
    slots = []
    for position in stage.positions:
        if parents and exploits_at(position, n_exploit, stage.n_ideas):
            slots.append(Slot("exploit", (rng.choice(parents),)))
        else:
            slots.append(Slot("explore"))
    return tuple(slots)


def best_of_n(stage: Stage, outcomes: Sequence[Outcome], rng: random.Random) -> tuple[Slot, ...]:
    """Independent ideas in every epoch: what sampling more of them gives without any search."""
    return seeds(stage)


def hill_climb(stage: Stage, outcomes: Sequence[Outcome], rng: random.Random) -> tuple[Slot, ...]:
    """From epoch 1 on every idea is a child of the best one so far; while none beats the baseline, a fresh one."""
    top = best(outcomes)
    if stage.epoch == 0 or top is None or not top.beats_baseline:
        return seeds(stage)
    return (Slot("exploit", (top.idea.id,)),) * stage.count


def seeds(stage: Stage) -> tuple[Slot, ...]:
    """Places for ideas without parents."""
    return (Slot("seed"),) * stage.count


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The valid outcome with the largest gain; the earlier one of equals."""
    scored = [o for o in outcomes if o.valid and o.gain is not None and o.fidelity != "no_effect"]
    return max(scored, key=lambda outcome: outcome.gain or 0.0, default=None)


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("paper", paper, "model", "the paper's search: explore, and exploit what beats the baseline", 1.0, True),
        Policy("best-of-n", best_of_n, "model", "independent ideas, no search"),
        Policy("knobs", best_of_n, "knobs", "random settings of the environment's knobs, no model"),
        Policy("hill-climb", hill_climb, "model", "children of the best idea so far"),
    )
}


def policy_of(name: str) -> Policy:
    """The policy of that name.

    Raises:
        UnknownName: there is none; the hint lists those that exist.
    """
    if name not in POLICIES:
        raise UnknownName(f"there is no policy {name!r}", f"known policies: {', '.join(POLICIES)}")
    return POLICIES[name]
