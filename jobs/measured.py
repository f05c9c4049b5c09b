"""A patch over several seeds: jobs, score against the baseline, fidelity; all of it on record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from xar_agent.envs.spec import Baseline
from xar_agent.errors import Interrupted
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.card_making import keep_card, score_on_card
from xar_agent.jobs.fidelity import fidelity
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import score, with_failed_jobs, with_fidelity
from xar_agent.jobs.types import Fidelity, Job, JobSpec, Score
from xar_agent.jobs.worker import JobEvent
from xar_agent.sandbox.protocol import Patch

WATCH_S = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """What the full runs of one patch came to."""

    jobs: tuple[Job, ...]
    """One a seed, in order."""
    score: Score
    fidelity: Fidelity
    baseline: Baseline | None
    """What it was compared with."""


def measure_patch(
    store: RunStore,
    bench: Bench,
    idea_id: str,
    patch: Patch,
    tree: str,
    seeds: Sequence[int],
    *,
    engine: LocalEngine | None = None,
    on_event: Callable[[JobEvent], None] | None = None,
    cancel: threading.Event | None = None,
) -> Measured:
    """Train and score a patch at each seed, and record what it rests on; its card where every seed is valid.

    Args:
        store: the run, open for writing; the idea is on record.
        bench: what to measure with.
        idea_id: whose patch it is.
        patch: against the environment's base.
        tree: the base with the patch.
        seeds: one job each.
        engine: shared with other patches of the run; None makes one for this patch, one job at a time.
        on_event: hears how the jobs go; called from other threads.
        cancel: ends the jobs when set.

    Raises:
        Interrupted: it was cancelled; the jobs are recorded as such.
        StoreError: results cannot be recorded.
    """
    specs = [JobSpec(store.name, idea_id, bench.env.name, bench.preset_name, s, patch, tree) for s in seeds]
    with LocalEngine(store, bench) if engine is None else nullcontext(engine) as running:
        ids = [running.submit(spec).id for spec in specs]
        jobs = wait_for(running, ids, on_event, cancel)
    evaluations = [job.evaluation for job in jobs if job.evaluation is not None]
    baseline = baseline_for(bench.env, bench.preset_name, runtime=bench.runtime)
    found = fidelity(bench, tree, jobs, jobs_dir=store.dir / "jobs", cancel=cancel)
    store.record_finding(idea_id, found, baseline)
    scored = with_fidelity(with_failed_jobs(score(evaluations, baseline, bench.env.direction), jobs), found)
    if card := score_on_card(scored):
        keep_card(store, bench, jobs, patch, card, baseline=baseline, fidelity=found)
    return Measured(tuple(jobs), scored, found, baseline)


def measured_so_far(store: RunStore, bench: Bench, idea_id: str, tree: str) -> Measured | None:
    """What is on record of a patch's full runs, without a check of its effect; None when there was none."""
    jobs = tuple(job for job in store.jobs(idea_id) if job.spec.tree == tree and job.spec.split == "val")
    if not jobs:
        return None
    evaluations = [job.evaluation for job in jobs if job.evaluation is not None]
    baseline = baseline_for(bench.env, bench.preset_name, runtime=bench.runtime)
    return Measured(jobs, score(evaluations, baseline, bench.env.direction), "unknown", baseline)


def wait_for(
    engine: LocalEngine,
    ids: Sequence[str],
    on_event: Callable[[JobEvent], None] | None,
    cancel: threading.Event | None,
) -> list[Job]:
    """The jobs when they have ended.

    Raises:
        Interrupted: it was cancelled; the jobs have ended and are recorded.
    """
    over = threading.Event()

    def watch() -> None:
        while cancel is not None and not over.wait(WATCH_S):
            if cancel.is_set():
                for job_id in ids:
                    engine.cancel(job_id)
                return

    watcher = threading.Thread(target=watch, name="job-cancel", daemon=True)
    watcher.start()
    try:
        jobs = engine.wait(ids, on_event)
    finally:
        over.set()
        watcher.join()
    if cancel is not None and cancel.is_set() and any(not job.evaluation for job in jobs):
        raise Interrupted("interrupted during training", "its jobs are recorded as cancelled")
    return jobs
