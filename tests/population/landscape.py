"""A ``Work`` without models and sandboxes: ideas are points on a line, and the best one is known."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xar_agent.agent.types import Idea
from xar_agent.errors import XarError
from xar_agent.jobs.types import FailureClass, Score, Verdict
from xar_agent.population.budget import Amount, Ledger
from xar_agent.population.evolve import Wanted
from xar_agent.population.types import Outcome
from xar_agent.store import append_line, read_lines

BASELINE = 4.0
OPTIMUM = 0.7
SD = 0.01
FAILS_BELOW = 0.05
"""Share of the points that crash, by their last digits."""


def point_of(idea: Idea) -> float:
    """The point that the idea's text names."""
    return float(idea.text.rpartition(" ")[2])


def value_at(idea: Idea) -> float:
    """Loss at the point: a parabola, and noise that belongs to the idea."""
    noise = random.Random(idea.id).gauss(0.0, SD)
    return 3.8 + (point_of(idea) - OPTIMUM) ** 2 + noise


def scored(idea: Idea, value: float) -> Outcome:
    """The outcome of a valid measurement."""
    gain = BASELINE - value
    verdict: Verdict = "better" if gain > 2 * SD else "worse" if gain < -2 * SD else "within_noise"
    score = Score(value, value - 2 * SD, value + 2 * SD, 1, BASELINE, value - BASELINE, verdict)
    return Outcome(idea, score, gain, diff=f"+{point_of(idea)}", tree=hashlib.sha256(idea.text.encode()).hexdigest())


@dataclass
class Landscape:
    """Results are lines in a file, as a run's database would have them: doing a thing twice is seen there."""

    folder: Path
    every_idea_fails: bool = False
    ledger: Ledger | None = None
    cost: Amount = field(default_factory=Amount)
    """Of one idea."""
    worst: Amount = field(default_factory=Amount)
    takes_s: float = 0.0
    errors: dict[str, list[XarError]] = field(default_factory=dict)
    """Text of an idea -> what its next tries raise."""
    cancel: threading.Event = field(default_factory=threading.Event)
    most_at_once: int = 0
    asked: list[Wanted] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _at_once: int = 0

    @property
    def measured(self) -> list[str]:
        """Ids of the ideas that were measured, as often as they were."""
        path = self.folder / "measured.jsonl"
        return [line["id"] for line in read_lines(path)] if path.exists() else []

    def propose(self, wanted: Wanted) -> Sequence[Idea]:
        """Points at random; children lie near their parent."""
        self.asked.append(wanted)
        rng = random.Random(f"propose {wanted.rng_seed}")
        by_id = {outcome.idea.id: outcome.idea for outcome in wanted.outcomes}
        ideas = []
        for slot in wanted.slots:
            point = rng.random()
            if slot.parents:
                point = point_of(by_id[slot.parents[0]]) + rng.gauss(0.0, 0.05)
            ideas.append(Idea(f"Go to {point:.4f}", "landscape", slot.parents, slot.origin))
        return ideas

    def carry_out(self, idea: Idea) -> None:
        """Measure it, unless that is on record."""
        with self._turn:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            pending = self.errors.get(idea.text)
        try:
            if pending:
                raise pending.pop(0)
            if self.ledger is None:
                self._measure(idea)
                return
            with self.ledger.reserve("idea", self.worst, cancel=self.cancel) as reserved:
                self._measure(idea)
                reserved.settle(self.cost)
        finally:
            with self._turn:
                self._at_once -= 1

    def _measure(self, idea: Idea) -> None:
        if self.takes_s:
            time.sleep(self.takes_s)
        with self._turn:
            if idea.id not in self.measured:
                append_line(self.folder / "measured.jsonl", {"id": idea.id}, fsync=True)

    def outcome(self, idea: Idea) -> Outcome:
        """What is known of it."""
        if idea.id not in self.measured:
            return Outcome(idea)
        if self.every_idea_fails:
            return Outcome(idea, failure=FailureClass.NAN, reason="loss is nan at step 3")
        return scored(idea, value_at(idea))
