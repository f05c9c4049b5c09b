"""The loop's work over the real thing: episodes in sandboxes, jobs on this machine, models behind one source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from xar_agent.agent.episode import editable_texts
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ChatModel, Situated
from xar_agent.agent.run import run_idea
from xar_agent.agent.sources import ModelSource
from xar_agent.agent.state import add_bill
from xar_agent.agent.types import Idea, Implementation, Usage
from xar_agent.envs.knobs import Knob
from xar_agent.errors import EvaluationError, ModelUnavailable, StoreError, XarError
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.local import MAX_ATTEMPTS, LocalEngine
from xar_agent.jobs.records import Spend
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Job, JobState
from xar_agent.population.archive import outcome_of, same_code_as
from xar_agent.population.budget import Amount, Ledger, Reservation
from xar_agent.population.clock import RunClock
from xar_agent.population.evolve import Wanted
from xar_agent.population.idea_log import replies_in
from xar_agent.population.ideation import Call, proposal_name, propose_with_model
from xar_agent.population.knobs import KnobModel, parse_setting
from xar_agent.population.policies import IdeasFrom
from xar_agent.population.proposals import propose_knobs
from xar_agent.population.turns import TurnTaker
from xar_agent.population.types import Outcome
from xar_agent.sandbox.protocol import Patch

IDEATION = "ideate"
"""Folder of the proposals' requests and replies."""
EVALUATION_S = 600.0
"""Of one job beyond its training, at most."""
SECONDS_AN_HOUR = 3600
SEEDS_APART = 10_000
"""Between the seeds of two ideas: those of the calibrations lie between the first idea's and the second one's."""

OnIdeaEvent = Callable[[Idea, Any], None]
"""Hears what ``run_idea`` tells of one idea; called from its thread."""


@dataclass(slots=True)
class BatchWork:
    """Proposes and carries out the ideas of one run. Safe for several threads."""

    store: RunStore
    bench: Bench
    engine: LocalEngine
    ledger: Ledger
    clock: RunClock
    limits: EpisodeLimits
    seeds: Sequence[int]
    """Training seeds of the first idea."""
    position: Callable[[Idea], int]
    """Place of an idea among all of the run, from 0."""
    repairs: int
    knobs: Sequence[Knob]
    ideas_from: IdeasFrom
    source: ModelSource | None
    """None where no model is needed."""
    cancel: threading.Event
    on_event: OnIdeaEvent
    given: Sequence[Idea] = ()
    """Ideas of the user's: then nobody is asked for any."""
    submit: bool = True
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _episodes: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one episode that a small model can serve at a time."""
    _owners: dict[str, str] = field(default_factory=dict)
    """Tree -> id of the idea that has it trained."""

    def __post_init__(self) -> None:
        for job in self.store.jobs():
            self._owners.setdefault(job.spec.tree, job.spec.idea_id)

    def propose(self, wanted: Wanted) -> Sequence[Idea]:
        """The user's next ideas, or new ones from a model or the knob menu."""
        self.clock.check()
        if self.given:
            return self.given[wanted.stage.first : wanted.stage.first + wanted.stage.count]
        call = self._call(wanted)
        if self.ideas_from == "knobs":
            return propose_knobs(call, self.knobs, self._texts, env=self.bench.env.name)
        if self.source is None:
            raise ModelUnavailable("no model was opened to think of ideas")
        try:
            return propose_with_model(
                call,
                env=self.bench.env,
                preset=self.bench.preset_name,
                baseline=baseline_for(self.bench.env, self.bench.preset_name, runtime=self.bench.runtime),
                files=editable_texts(self.bench, self.bench.base_tree),
                model=self.source.ideator(),
                knobs=self.knobs,
            )
        finally:
            self._book(call)

    def _book(self, call: Call) -> None:
        """Record what a proposal cost so far beyond what is booked already, so that a resumed one is booked once."""
        name = proposal_name(call.number)
        booked = self.store.spend(name)
        usage = Usage(cost_usd=0.0)
        for reply in replies_in(call.folder / f"{name}.jsonl"):
            usage = add_bill(usage, reply)
        before = Usage(
            sum(row.input_tokens for row in booked),
            sum(row.output_tokens for row in booked),
            None if any(row.cost_usd is None for row in booked) else sum(row.cost_usd or 0.0 for row in booked),
        )
        if (usage.input_tokens, usage.output_tokens) == (before.input_tokens, before.output_tokens):
            return
        known = usage.cost_usd is not None and before.cost_usd is not None
        self.store.add_spend(
            Spend(
                name,
                "model",
                model=self.source.name if self.source else "",
                input_tokens=usage.input_tokens - before.input_tokens,
                output_tokens=usage.output_tokens - before.output_tokens,
                cost_usd=(usage.cost_usd or 0.0) - (before.cost_usd or 0.0) if known else None,
            )
        )

    def _call(self, wanted: Wanted) -> Call:
        return Call(
            number=wanted.number,
            epoch=wanted.stage.epoch,
            slots=wanted.slots,
            outcomes=wanted.outcomes,
            pending=wanted.pending,
            folder=self.store.dir / IDEATION,
            rng_seed=wanted.rng_seed,
            samples_evenly=wanted.samples_evenly,
        )

    def carry_out(self, idea: Idea) -> None:
        """Implement the idea from its parent's patch, and train it unless its tree was trained before."""
        self.clock.check()
        model = self._model(idea)
        try:
            result = run_idea(
                idea,
                bench=self.bench,
                store=self.store,
                model=model,
                limits=self.limits,
                seeds=self._seeds(idea),
                repairs=self.repairs,
                parent=self._parent(idea),
                submit=self.submit,
                engine=self.engine,
                admit=self._admit,
                on_event=lambda event: self.on_event(idea, event),
                cancel=self.cancel,
            )
        finally:
            model.close()
        check_measured(result.jobs)

    def _seeds(self, idea: Idea) -> tuple[int, ...]:
        """An idea's own training seeds. With the same ones for all, a lucky seed makes every idea look better."""
        return tuple(seed + SEEDS_APART * self.position(idea) for seed in self.seeds)

    def outcome(self, idea: Idea) -> Outcome:
        """What is on record of it. Its twin's jobs may not be yet: those may wait for the budget."""
        found = outcome_of(self.store, idea)
        owner = self._owners.get(found.tree, idea.id)
        if owner == idea.id or found.score is not None or found.failure is not None:
            return found
        return replace(found, same_as=owner, reason=same_code_as(owner))

    def _model(self, idea: Idea) -> ChatModel:
        if parse_setting(idea.text, self.knobs) is not None:
            return KnobModel(self.knobs)
        if self.source is None:
            raise ModelUnavailable("no model was opened to implement ideas")
        model = self.source.episode()
        if self.source.concurrent == 1 and isinstance(model, Situated):
            return TurnTaker(model, self._episodes, self.cancel)
        return model

    def _tree(self, idea_id: str) -> str:
        """What an idea's episode came to."""
        made = self.store.implementations(idea_id)
        if not made:
            raise StoreError(f"nothing is on record of the parent {idea_id}")
        return made[-1].tree

    def _parent(self, idea: Idea) -> Patch | None:
        return self.bench.diff(self._tree(idea.parents[0])) if idea.parents else None

    def _texts(self, idea_id: str) -> Mapping[str, str]:
        return editable_texts(self.bench, self._tree(idea_id))

    @contextmanager
    def _admit(self, made: Implementation, n_jobs: int) -> Iterator[bool]:
        """Hold the GPU-hours of the worst case while an idea trains; False where another one has its tree trained."""
        with self._turn:
            owner = self._owners.setdefault(made.tree, made.idea.id)
        if owner != made.idea.id:
            yield False
            return
        preset = self.bench.preset
        hours = preset.gpus * (preset.wall_s + EVALUATION_S) * MAX_ATTEMPTS * n_jobs / SECONDS_AN_HOUR
        if not hours:
            yield True
            return
        before_s = self._trained_s(made.idea.id)
        with self.ledger.reserve(f"train {made.idea.id}", Amount(gpu_hours=hours), cancel=self.cancel) as reserved:
            try:
                yield True
            except StoreError:  # then what it used may not be on record, and the worst case counts
                raise
            except XarError:
                self._settle(reserved, made.idea.id, before_s)
                raise
            self._settle(reserved, made.idea.id, before_s)

    def _settle(self, reserved: Reservation, idea_id: str, before_s: float) -> None:
        used_s = self._trained_s(idea_id) - before_s
        reserved.settle(Amount(gpu_hours=self.bench.preset.gpus * used_s / SECONDS_AN_HOUR))

    def _trained_s(self, idea_id: str) -> float:
        return sum(spent.wall_s for spent in self.store.spend(idea_id) if spent.kind == "train")


def check_measured(jobs: Sequence[Job]) -> None:
    """A job that the house lost says nothing about the idea.

    Raises:
        EvaluationError: there is one; the same idea may be tried again.
    """
    for job in jobs:
        if job.state is JobState.LOST:
            raise EvaluationError(job.failure.reason if job.failure else "its training was lost")
