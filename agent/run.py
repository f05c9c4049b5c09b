"""One idea -> one score: the episode, its full runs over the seeds, repairs after a crash, and what it all came to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xar_agent import prompts
from xar_agent.agent.episode import load_implementation, read_events, record_jobs, repairs_on_record
from xar_agent.agent.implement import implement
from xar_agent.agent.limits import EpisodeLimits, deadline
from xar_agent.agent.messages import ChatModel
from xar_agent.agent.trajectory import active_path
from xar_agent.agent.types import Idea, Implementation
from xar_agent.envs.spec import Baseline
from xar_agent.errors import StoreError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.measured import Measured, measure_patch, measured_so_far
from xar_agent.jobs.records import IdeaRecord, ImplementationRecord, Spend
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, Fidelity, Job, Score, Verdict
from xar_agent.sandbox.protocol import Patch

MAX_LOG_CHARS = 6_000
OnEvent = Callable[[Any], None]
"""Hears of ``StepEvent``, ``Patch``, ``SmokeReport`` and ``JobEvent``, as they happen."""
Admit = Callable[[Implementation, int], AbstractContextManager[bool]]
"""Asked before the full runs of an implementation over so many seeds; holds what they may use while they last.

False: do not train it. It may raise BudgetReached.
"""


@dataclass(frozen=True, slots=True)
class IdeaResult:
    """What one idea came to."""

    implementation: Implementation
    jobs: tuple[Job, ...] = ()
    """Full runs of the last submitted patch, one a seed."""
    score: Score | None = None
    fidelity: Fidelity = "unknown"
    baseline: Baseline | None = None
    repairs: int = 0
    """How often a crash of the full run went back to the agent."""

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """What the trusted evaluator measured, valid or not."""
        return tuple(job.evaluation for job in self.jobs if job.evaluation is not None)

    @property
    def verdict(self) -> Verdict:
        """Against the baseline; "none" when nothing was scored."""
        return self.score.verdict if self.score is not None else "none"


def run_idea(
    idea: Idea,
    *,
    bench: Bench,
    store: RunStore,
    model: ChatModel,
    limits: EpisodeLimits,
    seeds: Sequence[int],
    repairs: int = 1,
    parent: Patch | None = None,
    submit: bool = True,
    engine: LocalEngine | None = None,
    admit: Admit | None = None,
    on_event: OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> IdeaResult:
    """Implement an idea and measure it. What is on record already is not done again, so the same call resumes.

    Args:
        idea: what to try.
        bench: the environment and what goes with it.
        store: the run, open for writing.
        model: who implements; closed before the full runs, which need the processor.
        limits: of the episode, repairs included; its time is the whole idea's, training included.
        seeds: one full run each.
        repairs: how often a crash of the full run may go back to the agent.
        parent: a patch to start from.
        submit: False ends with the smoke test.
        engine: shared by the ideas of a run; None makes one for this idea.
        admit: asked before the full runs.
        on_event: hears how it goes; job events come from other threads.
        cancel: ends it when set.

    Raises:
        ModelUnavailable, SandboxError, Interrupted, KeyboardInterrupt: what was done is recorded, and may be resumed.
        BudgetReached: the time was over during training; likewise. An episode ends as over_budget instead.
        StoreError: it cannot be recorded.
    """
    store.add_idea(IdeaRecord(idea.id, idea.text, idea.env, idea.parents, idea.origin, idea.epoch))
    stop = cancel or threading.Event()
    began = time.monotonic()
    attempt = Attempt(idea, bench, store, model, limits, parent, submit, engine, admit, on_event, stop, began)
    return attempt.run(seeds, repairs)


def recorded_result(idea: Idea, bench: Bench, store: RunStore) -> IdeaResult | None:
    """What is on record of an idea that an error has ended; None when its episode did not get so far as an end.

    Raises:
        StoreError: the record cannot be read.
    """
    folder = store.dir / "impl" / idea.id
    if not any(event.type == "run_end" for event in active_path(read_events(folder))):
        return None
    made = load_implementation(idea, bench, folder)
    found = measured_so_far(store, bench, idea.id, made.tree)
    return idea_result(made, found, repairs_on_record(folder))


def idea_result(made: Implementation, found: Measured | None, repairs: int) -> IdeaResult:
    """Both halves in one; without training only the first."""
    if found is None:
        return IdeaResult(made, repairs=repairs)
    return IdeaResult(made, found.jobs, found.score, found.fidelity, found.baseline, repairs)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One idea on its way through a run."""

    idea: Idea
    bench: Bench
    store: RunStore
    model: ChatModel
    limits: EpisodeLimits
    parent: Patch | None
    submit: bool
    engine: LocalEngine | None
    admit: Admit | None
    on_event: OnEvent | None
    cancel: threading.Event
    began: float
    """By the monotonic clock."""

    @property
    def left_s(self) -> float | None:
        """Of the time that the idea may take; None means no limit."""
        limit_s = self.limits.wall_s
        return None if limit_s is None else max(round(limit_s - (time.monotonic() - self.began), 3), 0.0)

    @property
    def episode_dir(self) -> Path:
        """Where the episode is recorded."""
        return self.store.dir / "impl" / self.idea.id

    def run(self, seeds: Sequence[int], repairs: int) -> IdeaResult:
        """The episode, its full runs, and both again after a crash that may be mended."""
        implementation = self.implement()
        measured = self.measure(implementation, seeds)
        used = repairs_on_record(self.episode_dir)
        while (
            used < repairs and self.left_s != 0 and measured is not None and (crash := crash_of(measured)) is not None
        ):
            used += 1
            before = implementation.tree
            implementation = self.implement(feedback_on(crash))
            if implementation.outcome != "submitted" or implementation.tree == before:
                break
            measured = self.measure(implementation, seeds)
        return idea_result(implementation, measured, used)

    def implement(self, feedback: str = "") -> Implementation:
        """The episode, or its next part; recorded in the run's database however it ends."""
        try:
            implementation = implement(
                self.idea,
                self.bench,
                self.model,
                limits=replace(self.limits, wall_s=self.left_s),
                episode_dir=self.episode_dir,
                parent=self.parent,
                on_step=self.on_event,
                cancel=self.cancel,
                run_id=self.store.name,
                submit=self.submit,
                feedback=feedback,
            )
        except BaseException:
            self._record_ended_episode()
            raise
        self._record(implementation)
        self._tell(implementation.patch)
        if implementation.smoke is not None:
            self._tell(implementation.smoke)
        return implementation

    def measure(self, implementation: Implementation, seeds: Sequence[int]) -> Measured | None:
        """Full runs of what was submitted; None when nothing was, or when it is not to be trained."""
        if implementation.outcome != "submitted" or not self.submit:
            return None
        self.model.close()
        with self.admit(implementation, len(seeds)) if self.admit else nullcontext(True) as admitted:
            if not admitted:
                return None
            with deadline(self.cancel, self.left_s):
                measured = self._train(implementation, seeds)
        record_jobs(self.episode_dir, self.store.name, measured.jobs)
        return measured

    def _train(self, implementation: Implementation, seeds: Sequence[int]) -> Measured:
        patch, tree = implementation.patch, implementation.tree
        return measure_patch(
            self.store,
            self.bench,
            self.idea.id,
            patch,
            tree,
            seeds,
            engine=self.engine,
            on_event=self.on_event,
            cancel=self.cancel,
        )

    def _tell(self, event: object) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def _record_ended_episode(self) -> None:
        """Record what an episode left that an exception has ended, if it got so far as to record its own end."""
        events = read_events(self.episode_dir)
        if not events or events[-1].type != "run_end":
            return
        try:
            implementation = load_implementation(self.idea, self.bench, self.episode_dir)
        except StoreError:
            return  # the disk is full: the exception under way says so
        self._record(implementation)

    def _record(self, implementation: Implementation) -> None:
        """One row for the implementation, unless it is the same as the last, and one for what it cost since then."""
        record = record_of(implementation, self.store.dir)
        rows = self.store.implementations(self.idea.id)
        if rows and rows[-1] == record:
            return
        last = rows[-1] if rows else None
        spent = implementation.usage.cost_usd
        known = spent is not None and (last is None or last.cost_usd is not None)
        before_usd = (last.cost_usd if last else 0.0) or 0.0
        bill = Spend(
            self.idea.id,
            "model",
            model=implementation.model,
            input_tokens=record.input_tokens - (last.input_tokens if last else 0),
            output_tokens=record.output_tokens - (last.output_tokens if last else 0),
            cost_usd=(spent or 0.0) - before_usd if known else None,
            wall_s=implementation.duration_s,
        )
        self.store.add_implementation(record, bill)


def record_of(implementation: Implementation, run_dir: Path) -> ImplementationRecord:
    """The implementation as a row; paths relative to the run's folder."""
    trajectory = implementation.trajectory.relative_to(run_dir)
    return ImplementationRecord(
        idea_id=implementation.idea.id,
        outcome=implementation.outcome,
        exit_reason=implementation.exit_reason,
        tree=implementation.tree,
        patch_path=str(trajectory.with_name("patch.diff")),
        patch_sha256=implementation.patch.sha256,
        trajectory_path=str(trajectory),
        smoke=implementation.smoke,
        steps=implementation.steps,
        input_tokens=implementation.usage.input_tokens,
        output_tokens=implementation.usage.output_tokens,
        cost_usd=implementation.usage.cost_usd,
        model=implementation.model,
        duration_s=implementation.duration_s,
    )


def crash_of(measured: Measured) -> Failure | None:
    """The failure that the agent may mend: its program crashed or ran out of something; not what the evaluator saw."""
    for job in measured.jobs:
        if job.evaluation is None and job.failure is not None and job.failure.kind is not FailureClass.INFRA:
            return job.failure
    return None


def feedback_on(failure: Failure) -> str:
    """What the agent is told about it."""
    place = f"{failure.file}:{failure.line}" if failure.file else ""
    log = failure.log[-MAX_LOG_CHARS:]
    return prompts.render("repair", kind=failure.kind.value, reason=failure.reason, place=place, log=log)
