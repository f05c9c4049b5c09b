"""Values of the population room: what is wanted of an idea, and what became of one."""

from __future__ import annotations

from dataclasses import dataclass

from xar_agent.agent.types import Idea, Origin
from xar_agent.jobs.types import FailureClass, Fidelity, Score


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the plan for one idea, before anybody has thought of it."""

    origin: Origin
    """``seed`` (epoch 0), ``explore`` or ``exploit``."""
    parents: tuple[str, ...] = ()
    """Ids of the ideas whose patch it starts from; the first one's is applied."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one idea, as policies and prompts see it. Derived from the records, never stored."""

    idea: Idea
    score: Score | None = None
    """None when nothing was measured."""
    gain: float | None = None
    """How far its mean is on the good side of the baseline, in the metric's unit; None without a valid score."""
    failure: FailureClass | None = None
    reason: str = ""
    """Why it has no valid score, in one line."""
    diff: str = ""
    """Its patch against the environment's base; empty when there is none."""
    tree: str = ""
    fidelity: Fidelity = "unknown"
    same_as: str = ""
    """Id of the earlier idea whose tree it repeats; empty for the first one of a tree."""

    @property
    def valid(self) -> bool:
        """It has a score that counts."""
        return self.score is not None and self.score.mean is not None and self.score.verdict != "invalid"

    @property
    def beats_baseline(self) -> bool:
        """Its mean is on the good side of the baseline's, by whatever amount: the paper's criterion for parents.

        A patch that changes nothing does not beat anything: what it differs by is chance.
        """
        return self.valid and self.gain is not None and self.gain > 0 and self.fidelity != "no_effect"
