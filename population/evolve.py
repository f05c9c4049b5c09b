"""The loop: ask for ideas, hand them out, take results in as they come, until the plan or the budget is used up.

It knows neither models nor sandboxes: it is handed a ``Work``, so that it runs as well over a landscape whose optimum
is known. Ideas are carried out by a few threads; everything else happens in the calling one, which sleeps until a
result comes. Each decision is on disk before it has any effect.

Epochs overlap unless the policy says otherwise: the next one begins as soon as a thread is free and half of the
results of the one before are in.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from xar_agent.agent.types import Idea
from xar_agent.errors import (
    BudgetReached,
    EvaluationError,
    Interrupted,
    PatchRefused,
    SandboxError,
    ServiceMissing,
    StoreError,
    UserError,
    XarError,
)
from xar_agent.jobs.types import FailureClass
from xar_agent.population.crew import Crew, Ended
from xar_agent.population.decisions import DecisionLog, Proposal, Result, positions_planned
from xar_agent.population.policies import Policy, Stage
from xar_agent.population.types import Outcome, Slot

FIRST_BATCH = 10
"""Ideas that epoch 0 asks for at a time, as in the paper."""
LATER_BATCH = 4
"""Later ones are asked for in smaller parts, so that they know the latest results."""
MAX_HOUSE_FAILURES = 3
"""In a row: then something is wrong with the machine, and going on would burn the ideas."""
HOUSE_FAILED = (SandboxError, EvaluationError)
ENDS_THE_RUN = (StoreError, ServiceMissing, UserError)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done in all."""

    policy: Policy
    epochs: int
    ideas: int
    """In each epoch."""
    parallel: int
    """Ideas at a time."""
    seed: int
    """Of every choice that the policy makes."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Some places for which ideas are asked."""

    number: int
    """Of the proposal."""
    stage: Stage
    slots: tuple[Slot, ...]
    outcomes: tuple[Outcome, ...]
    """Known results, in the order in which they came in."""
    pending: tuple[Idea, ...]
    """Handed out, without a result."""
    rng_seed: str
    """For whatever else is left to chance."""
    samples_evenly: bool = False
    """See ``Policy``."""


class Work(Protocol):
    """What the loop hands out. All of it may be called again after a crash, and then goes on where it was."""

    def propose(self, wanted: Wanted) -> Sequence[Idea]:
        """One idea for each slot, in order.

        Raises:
            ModelUnavailable, BudgetReached, Interrupted, StoreError: as ``carry_out``.
        """
        ...

    def carry_out(self, idea: Idea) -> None:
        """Implement and measure one idea; everything that comes of it is on record afterwards.

        Raises:
            BudgetReached: there is too little left for it; it stays open.
            Interrupted: it was cancelled; it stays open.
            ModelUnavailable, StoreError: no other idea would fare better.
            SandboxError, EvaluationError: the house failed; it may be tried again.
        """
        ...

    def outcome(self, idea: Idea) -> Outcome:
        """What is on record of it."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Something happened in the loop."""

    kind: str
    """``proposing``, ``proposed``, ``started``, ``finished`` or ``again``."""
    idea: Idea | None = None
    outcome: Outcome | None = None
    epoch: int = 0
    count: int = 0
    """Ideas that are asked for or were proposed."""


class Evolution:
    """One command's part of a run: it takes up what is on record and goes on."""

    def __init__(
        self,
        plan: Plan,
        work: Work,
        log: DecisionLog,
        *,
        cancel: threading.Event,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.plan = plan
        self.work = work
        self.log = log
        self._cancel = cancel
        self._tell = on_progress or (lambda _: None)
        self._crew = Crew(plan.parallel, work.carry_out)
        self._by_id = {idea.id: idea for idea in log.ideas}
        known = {result.idea_id for result in log.results}
        self.pending = [idea for idea in log.ideas if idea.id not in known]
        self._outcomes = [self._recorded(result) for result in log.results]
        self._tries: dict[str, int] = {}
        self._house_failures = 0
        self.stopped: XarError | None = None
        """Why it ended before the plan was used up."""

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Results so far, in the order in which they came in."""
        return tuple(self._outcomes)

    def run(self) -> XarError | None:
        """Work until the plan is used up, or something ends it; what that was, None for the plan.

        Raises:
            KeyboardInterrupt, Interrupted: the user stopped it; all threads have ended and what they did is on record.
            StoreError, ServiceMissing, UserError: going on makes no sense; likewise.
        """
        with self._ended_with_us():
            while True:
                self._hand_out()
                if self.stopped is None and self._crew.free and self._stage() is not None:
                    self._propose()
                    continue
                if not self._crew.at_work:
                    break
                self._take(self._crew.wait())
        if isinstance(self.stopped, (Interrupted, *ENDS_THE_RUN)):
            raise self.stopped
        return self.stopped

    @contextmanager
    def _ended_with_us(self) -> Iterator[None]:
        """Whatever ends the loop ends its threads too, and waits for them."""
        try:
            yield
        except BaseException:
            self._cancel.set()
            while self._crew.at_work:
                self._crew.wait()
            raise

    def _hand_out(self) -> None:
        while self.stopped is None and self.pending and self._crew.free:
            idea = self.pending.pop(0)
            self._tell(Progress("started", idea, epoch=idea.epoch))
            self._crew.start(idea)

    def _stage(self) -> Stage | None:
        """The next places to plan; None when all are, or when too few results of the epoch before are in."""
        for epoch in range(self.plan.epochs):
            planned = positions_planned(self.log.proposals, epoch)
            if planned < self.plan.ideas:
                known = sum(outcome.idea.epoch == epoch - 1 for outcome in self._outcomes)
                if epoch and known < self.plan.policy.wait_share * self.plan.ideas:
                    return None
                most = FIRST_BATCH if epoch == 0 else max(LATER_BATCH, self.plan.parallel)
                return Stage(epoch, self.plan.ideas, planned, min(most, self.plan.ideas - planned))
        return None

    def _propose(self) -> None:
        """Ask for the next ideas, and put them on record."""
        stage = self._stage()
        assert stage is not None
        number = len(self.log.proposals)
        rng_seed = f"{self.plan.seed}:{number}"
        slots = self.plan.policy.select(stage, self.outcomes, random.Random(rng_seed))
        wanted = Wanted(
            number, stage, slots, self.outcomes, tuple(self._crew.at_work), rng_seed, self.plan.policy.samples_evenly
        )
        self._tell(Progress("proposing", epoch=stage.epoch, count=stage.count))
        try:
            ideas = tuple(replace(idea, epoch=stage.epoch) for idea in self.work.propose(wanted))
        except StoreError:
            raise
        except XarError as error:  # no model, no budget, no idea left: what is at work is still taken in
            self.stopped = error
            return
        saw = tuple(outcome.idea.id for outcome in self._outcomes)
        self.log.add_proposal(Proposal(number, stage.epoch, stage.first, saw, slots, ideas))
        self._by_id.update({idea.id: idea for idea in ideas})
        self.pending.extend(ideas)
        self._tell(Progress("proposed", epoch=stage.epoch, count=len(ideas)))

    def _take(self, ended: Ended) -> None:
        """Take one idea's end in: a result, another try, or the end of the run."""
        error = ended.error
        if isinstance(error, HOUSE_FAILED):
            self._house_failures += 1
            if self._house_failures >= MAX_HOUSE_FAILURES:
                self.stopped = self.stopped or error
            elif not self._tries.get(ended.idea.id):
                self._tries[ended.idea.id] = 1
                self.pending.insert(0, ended.idea)
                self._tell(Progress("again", ended.idea))
            else:
                self._fold(crashed(ended.idea, error), by_house=True)
        elif isinstance(error, PatchRefused):
            self._fold(crashed(ended.idea, error, FailureClass.INTEGRITY), by_house=True)
        elif isinstance(error, (BudgetReached, Interrupted, *ENDS_THE_RUN)):
            self._stop(error)
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        elif error is not None:
            self._fold(crashed(ended.idea, error), by_house=True)
        else:
            self._house_failures = 0
            self._fold(self.work.outcome(ended.idea), by_house=False)

    def _stop(self, error: XarError) -> None:
        """Begin nothing more; a record that cannot be written ends what is at work, too."""
        if self.stopped is None or isinstance(error, StoreError):
            self.stopped = error
        if isinstance(error, ENDS_THE_RUN):
            self._cancel.set()

    def _fold(self, outcome: Outcome, *, by_house: bool) -> None:
        """Put a result on record and count with it from now on."""
        self.log.add_result(outcome, crashed=by_house)
        self._outcomes.append(outcome)
        self._tell(Progress("finished", outcome.idea, outcome, epoch=outcome.idea.epoch))

    def _recorded(self, result: Result) -> Outcome:
        """The outcome of an idea whose result was taken in by an earlier command."""
        idea = self._by_id[result.idea_id]
        if result.crashed:
            return Outcome(idea, failure=FailureClass(result.failure), reason=result.reason)
        return self.work.outcome(idea)


def crashed(idea: Idea, error: BaseException, kind: FailureClass = FailureClass.INFRA) -> Outcome:
    """The outcome of an idea that an exception ended."""
    reason = error.message if isinstance(error, XarError) else f"{type(error).__name__}: {error}"
    return Outcome(idea, failure=kind, reason=" ".join(reason.split()))
