"""What the manager decided and what it knew then: one line a decision, on disk before it has any effect.

A proposal holds its ideas whole, a result the order in which it came in. Reading the file back gives the manager's
state, so that the same command goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xar_agent.agent.types import Idea
from xar_agent.errors import StoreError
from xar_agent.jobs.records import load
from xar_agent.population.types import Outcome, Slot
from xar_agent.store import append_line, read_lines, to_json

FILE_NAME = "decisions.jsonl"


@dataclass(frozen=True, slots=True)
class Proposal:
    """Some ideas of one epoch, and the results that were known when they were asked for."""

    number: int
    """From 0."""
    epoch: int
    first: int
    """Place of the first one within the epoch."""
    saw: tuple[str, ...]
    """Ids of the ideas whose result was in, in that order."""
    slots: tuple[Slot, ...]
    ideas: tuple[Idea, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One idea's result as the manager took it in."""

    idea_id: str
    mean: float | None
    verdict: str
    failure: str
    reason: str
    same_as: str
    crashed: bool = False
    """The house failed on it in a way that nobody foresaw: it is not tried again."""


class DecisionLog:
    """The decisions of one run, oldest first."""

    def __init__(self, run_dir: Path) -> None:
        """Read what is on record.

        Raises:
            StoreError: it cannot be read, or was written by another release.
        """
        self.path = run_dir / FILE_NAME
        self.proposals: list[Proposal] = []
        self.results: list[Result] = []
        for line in read_lines(self.path) if self.path.exists() else []:
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        kind = line.pop("type", None)
        if kind == "proposal":
            self.proposals.append(load(Proposal, to_json(line)))
        elif kind == "result":
            self.results.append(load(Result, to_json(line)))
        else:
            raise StoreError(f"{self.path}: a decision of unknown type {kind!r}", "it was written by another release")

    @property
    def ideas(self) -> tuple[Idea, ...]:
        """All that were proposed, in order."""
        return tuple(idea for proposal in self.proposals for idea in proposal.ideas)

    def position(self, idea: Idea) -> int:
        """Place of an idea among all that were proposed, from 0.

        Raises:
            ValueError: it was not.
        """
        return [one.id for one in self.ideas].index(idea.id)

    def add_proposal(self, proposal: Proposal) -> None:
        """Put a proposal on disk.

        Raises:
            StoreError: it cannot be written.
        """
        append_line(self.path, {"type": "proposal", **asdict(proposal)}, fsync=True)
        self.proposals.append(proposal)

    def add_result(self, outcome: Outcome, *, crashed: bool = False) -> None:
        """Put a result on disk, as seen now.

        Raises:
            StoreError: it cannot be written.
        """
        score = outcome.score
        result = Result(
            idea_id=outcome.idea.id,
            mean=score.mean if score else None,
            verdict=score.verdict if score else "none",
            failure=str(outcome.failure or ""),
            reason=outcome.reason,
            same_as=outcome.same_as,
            crashed=crashed,
        )
        append_line(self.path, {"type": "result", **asdict(result)}, fsync=True)
        self.results.append(result)


def positions_planned(proposals: Sequence[Proposal], epoch: int) -> int:
    """How many places of an epoch have an idea."""
    return sum(len(proposal.ideas) for proposal in proposals if proposal.epoch == epoch)
