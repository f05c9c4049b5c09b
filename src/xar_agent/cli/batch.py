"""Many ideas in one run: everything that takes time, shown as it happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xar_agent.analysis.text import duration
from xar_agent.errors import BudgetReached, Interrupted, XarError

if TYPE_CHECKING:
    from pathlib import Path

    from xar_agent.agent.sources import ModelSource
    from xar_agent.cli.batch_plan import BatchPlan
    from xar_agent.cli.board import Board
    from xar_agent.cli.live import Live
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.runs import RunStore
    from xar_agent.population.budget import Ledger
    from xar_agent.population.clock import RunClock
    from xar_agent.population.decisions import DecisionLog
    from xar_agent.population.driver import BatchWork
    from xar_agent.population.types import Outcome


WATCH_S = 0.1


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How one command's part of a batch ended."""

    run_dir: Path
    stopped: XarError | None
    """What ended it before its plan was used up."""
    n_valid: int
    """Ideas whose result is in and valid."""
    n_implemented: int
    """Ideas whose smoke test passed and that were submitted."""
    duration_s: float


def run_batch(live: Live, plan: BatchPlan, began: float) -> BatchResult:
    """Carry a batch out, or on from where it was.

    Args:
        live: where progress is shown.
        plan: what is to be done.
        began: start of the command by the monotonic clock.

    Raises:
        Interrupted: the user stopped it; the same command with ``--run`` goes on.
        ServiceMissing, UserError, StoreError: going on makes no sense; what was done is on record.
    """
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.prepare import model_ready, open_run, prepared_bench

    show_batch(live, plan)
    with interruptible() as cancel, open_run(plan) as store:
        model_ready(live, plan.model)
        bench = prepared_bench(live, plan.env, plan.preset, plan.settings, store.dir)
        with opened(plan, live, store, bench, cancel, began) as (work, board, log, clock):
            stopped, outcomes = evolved(plan, work, board, log, clock, cancel)
        n_valid = sum(outcome.valid for outcome in outcomes)
        n_implemented = sum(is_implemented(store, idea.id) for idea in log.ideas)
    return BatchResult(store.dir, stopped, n_valid, n_implemented, time.monotonic() - began)


def evolved(
    plan: BatchPlan, work: BatchWork, board: Board, log: DecisionLog, clock: RunClock, cancel: threading.Event
) -> tuple[XarError | None, tuple[Outcome, ...]]:
    """Why the loop ended early, None when the plan is used up; and every result."""
    from xar_agent.population.evolve import Evolution, Plan

    wanted = Plan(plan.policy, plan.epochs, plan.ideas, plan.parallel, plan.search_seed)
    evolution = Evolution(wanted, work, log, cancel=cancel, on_progress=board.progress)
    board.take_up(evolution.outcomes)
    try:
        stopped = evolution.run()
    except Interrupted:
        if not clock.over:
            raise
        stopped = BudgetReached(clock.reason)
    return stopped, evolution.outcomes


@contextmanager
def opened(
    plan: BatchPlan, live: Live, store: RunStore, bench: Bench, cancel: threading.Event, began: float
) -> Iterator[tuple[BatchWork, Board, DecisionLog, RunClock]]:
    """Everything that the loop works with, closed in the right order."""
    from xar_agent.agent.limits import EpisodeLimits
    from xar_agent.cli.board import Board, Tally
    from xar_agent.envs.knobs import read_knobs
    from xar_agent.jobs.baseline import baseline_for
    from xar_agent.jobs.local import LocalEngine
    from xar_agent.population.budget import Budget, Ledger
    from xar_agent.population.clock import RunClock
    from xar_agent.population.decisions import DecisionLog
    from xar_agent.population.driver import BatchWork

    settings = plan.settings
    log = DecisionLog(store.dir)
    limits = Budget(settings.budget_usd, settings.budget_tokens, settings.budget_gpu_hours)
    ledger = Ledger(store.dir, limits, on_warning=lambda text: board.note(text, "yellow"))
    hours = settings.budget_hours
    clock = RunClock(store.dir, hours * 3600 if hours else None, cancel, began=began)
    board = Board(
        live,
        Tally(plan.epochs * plan.ideas),
        epochs=plan.epochs,
        baseline=baseline_for(plan.env, plan.preset, runtime=plan.sandbox.runtime),
        spent=lambda: spent_text(plan, store, ledger, clock),
    )
    with ExitStack() as stack:
        stack.enter_context(clock)
        stack.enter_context(board)
        source = open_source(plan, store, ledger, cancel)
        if source is not None:
            stack.enter_context(source)
            stack.enter_context(closed_by(cancel, source))
        engine = stack.enter_context(LocalEngine(store, bench, parallel=plan.slots))
        work = BatchWork(
            store=store,
            bench=bench,
            engine=engine,
            ledger=ledger,
            clock=clock,
            limits=EpisodeLimits(max_steps=settings.max_steps),
            seeds=plan.seeds,
            position=log.position,
            repairs=settings.repairs,
            knobs=read_knobs(plan.env),
            ideas_from=plan.ideas_from,
            source=source,
            cancel=cancel,
            on_event=board.event,
            given=plan.given,
            submit=plan.submit,
        )
        yield work, board, log, clock


@contextmanager
def closed_by(cancel: threading.Event, source: ModelSource) -> Iterator[None]:
    """Close the models as soon as the event is set: a thread that waits for a reply would not see it for minutes."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_S):
            if cancel.is_set():
                source.close()
                return

    watcher = threading.Thread(target=watch, name="model-close", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def open_source(plan: BatchPlan, store: RunStore, ledger: Ledger, cancel: threading.Event) -> ModelSource | None:
    """The models of the batch behind its budget; None when it needs none."""
    from xar_agent.agent.sources import ModelSource
    from xar_agent.cli.batch_plan import prices_of
    from xar_agent.population.meter import BudgetMeter

    if plan.model is None:
        return None
    prices = prices_of(plan.model) if plan.settings.budget_usd is not None else None
    return ModelSource(plan.model, meter=BudgetMeter(ledger, prices or (0.0, 0.0), cancel), log_dir=store.dir)


def is_implemented(store: RunStore, idea_id: str) -> bool:
    """The idea became a patch whose smoke test passed."""
    made = store.implementations(idea_id)
    if not made:
        return False
    smoke = made[-1].smoke
    return made[-1].outcome == "submitted" and smoke is not None and smoke.passed


def show_batch(live: Live, plan: BatchPlan) -> None:
    """Before anything takes time: what will be done, with what, and about how long it will take."""
    from xar_agent.cli.events import show_measuring
    from xar_agent.cli.plan import about_model

    if plan.model is not None:
        live.line("model", about_model(plan.model))
    show_measuring(live, plan.env, plan.preset, plan.sandbox)
    live.line("plan", plan_text(plan), "bold")


def plan_text(plan: BatchPlan) -> str:
    """How many ideas, from whom, and what training them costs."""
    from xar_agent.jobs.baseline import baseline_for

    count = plan.epochs * plan.ideas
    if plan.given:
        what = f"{count} ideas of yours"
    else:
        whose = "random settings of the knobs" if plan.ideas_from == "knobs" else "ideas of the model"
        what = f"{count} ideas in {plan.epochs} epochs of {plan.ideas}, policy {plan.policy.name} ({whose})"
    baseline = baseline_for(plan.env, plan.preset, runtime=plan.sandbox.runtime)
    cost = ""
    if baseline is not None and plan.submit:
        cpu_s = baseline.cpu_s * count * len(plan.seeds)
        cost = f"; training alone takes about {duration(cpu_s)} of one core"
    return f"{what}, {plan.parallel} at a time, {len(plan.seeds)} seed(s) each{cost}"


def spent_text(plan: BatchPlan, store: RunStore, ledger: Ledger, clock: RunClock) -> str:
    """What was spent, against what may be."""
    settings, spent = plan.settings, ledger.spent
    rows = store.spend()
    usd = sum(row.cost_usd or 0.0 for row in rows)
    unknown = any(row.cost_usd is None for row in rows)
    price = "unknown price" if unknown and not usd else f"${max(usd, spent.usd):.2f}"
    parts = [
        price + of(settings.budget_usd, "${:.2f}"),
        f"{spent.tokens:,} tokens" + of(settings.budget_tokens, "{:,}"),
        f"{sum(row.cpu_s for row in rows) / 3600:.2f} CPU-hours",
        duration(clock.used_s) + of(settings.budget_hours and settings.budget_hours * 60, "{:g} min"),
    ]
    if plan.env.preset(plan.preset).gpus:
        parts.insert(2, f"{spent.gpu_hours:.2f} GPU-hours" + of(settings.budget_gpu_hours, "{:g}"))
    return ", ".join(parts)


def of(limit: float | None, form: str) -> str:
    """`` of 50,000`` where there is a limit."""
    return "" if limit is None else f" of {form.format(limit)}"
