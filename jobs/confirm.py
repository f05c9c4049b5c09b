"""Confirm a candidate: fresh seeds, scored on the hidden split, held against the baseline of that split.

Search and selection saw neither those seeds nor that text, so the luck that picked a candidate is not in these scores.
Every look of a run counts: p-values are multiplied by how many there were (Bonferroni).
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xar_agent.envs.spec import Baseline
from xar_agent.errors import EvaluationError
from xar_agent.jobs.baseline import baseline_for, calibrate
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.card import CardScore
from xar_agent.jobs.card_making import keep_card
from xar_agent.jobs.fidelity import fidelity
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.looks import Finding, Look, Wanted, begin_looks, end_look, read_looks
from xar_agent.jobs.measured import wait_for
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import CONFIDENCE, ExpectedBaseline, baseline_at, student_t_quantile
from xar_agent.jobs.two_means import Comparison, compare
from xar_agent.jobs.types import Fidelity, Job, JobSpec
from xar_agent.sandbox.protocol import Patch

ALPHA = 0.05
DEFAULT_SEEDS = 5
MIN_BASELINE_SEEDS = 5
INTERVAL = "95 % confidence interval of the mean over fresh seeds"
"""What a card says of lo and hi."""
ConfirmVerdict = Literal["confirmed", "not_confirmed", "invalid"]
OnEvent = Callable[[Any], None]
"""Hears of ``JobEvent`` and ``CalibrationProgress``, from other threads."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One look at the hidden split and what it is worth. Derived from the look's file, never stored."""

    number: int
    """Of the look, from 1."""
    idea_id: str
    tree: str
    seeds: tuple[int, ...]
    values: tuple[float | None, ...]
    """On the hidden split, one a seed; None where there is none."""
    mean: float | None
    """Over the seeds; None when it is not valid, as every figure below that needs all seeds."""
    lo: float | None
    hi: float | None
    """95 % confidence interval of the mean."""
    baseline_mean: float
    """Of the baseline on the hidden split, at the compute that the candidate is charged for."""
    baseline_sd: float
    baseline_n: int
    gain: float | None
    """How far the mean is on the good side of the baseline's, in the metric's unit."""
    gain_lo: float | None
    gain_hi: float | None
    """95 % confidence interval of the gain."""
    p: float | None
    """One-sided: so large a gain by chance alone, for a candidate that is no better."""
    p_corrected: float | None
    """Times the looks of this run so far, one at most."""
    looks: int
    compute_ratio: float
    fidelity: Fidelity
    verdict: ConfirmVerdict
    reasons: tuple[str, ...]
    """Why it is invalid."""
    baseline: Baseline
    direction: Literal["min", "max"]


def confirm_patch(
    store: RunStore,
    bench: Bench,
    engine: LocalEngine | None,
    idea_id: str,
    patch: Patch,
    tree: str,
    *,
    seeds: int = DEFAULT_SEEDS,
    on_event: OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> Confirmation:
    """Look at one candidate on the hidden split, or go on with a look at it that was cut off.

    Args:
        store: the run, open for writing; the idea is on record.
        bench: what to measure with.
        engine: shared with other work of the run; None makes one.
        idea_id: whose patch it is.
        patch: against the environment's base.
        tree: the base with the patch.
        seeds: how many fresh ones.
        on_event: hears how it goes.
        cancel: ends it when set.

    Raises:
        UserError: too few seeds, or an interrupted look has another number of them.
        Interrupted: it was cancelled; the look is on record and can be gone on with.
        EvaluationError: the house failed at a seed; the same.
        StoreError: it cannot be recorded.
    """
    (look,) = begin_looks(store, [Wanted(idea_id, tree, patch.sha256)], seeds, DEFAULT_SEEDS)
    take_look(store, bench, engine, look, patch, on_event=on_event, cancel=cancel)
    return next(found for found in read_confirmations(store.dir) if found.number == look.number)


def take_look(
    store: RunStore,
    bench: Bench,
    engine: LocalEngine | None,
    look: Look,
    patch: Patch,
    *,
    on_event: OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> Look:
    """Train and score what a look on record still lacks, and record what was found.

    Raises:
        Interrupted, EvaluationError, StoreError: as ``confirm_patch``.
    """
    if look.finding is not None:
        return look
    baseline = hidden_baseline(bench, len(look.seeds), on_event, cancel)
    names = (store.name, look.idea_id, bench.env.name, bench.preset_name)
    specs = [JobSpec(*names, seed, patch, look.tree, "hidden") for seed in look.seeds]
    with LocalEngine(store, bench) if engine is None else nullcontext(engine) as running:
        jobs = wait_for(running, [running.submit(spec).id for spec in specs], on_event, cancel)
    lost = [job for job in jobs if job.evaluation is None and engine_failed(job)]
    if lost:
        why = lost[0].failure.reason if lost[0].failure else "no result"
        raise EvaluationError(f"seed {lost[0].spec.seed} could not be measured: {why}", "the same command goes on")
    recorded = store.finding(look.idea_id)
    known: Fidelity = recorded.fidelity if recorded else "unknown"
    if known == "unknown":
        known = fidelity(bench, look.tree, jobs, jobs_dir=store.dir / "jobs", cancel=cancel)
    ended = end_look(store, look, finding_of(jobs, known, baseline, bench.env.direction))
    found = next(one for one in read_confirmations(store.dir) if one.number == ended.number)
    if card := score_on_card(found):
        keep_card(store, bench, jobs, patch, card, baseline=baseline, fidelity=known)
    return ended


def score_on_card(found: Confirmation) -> CardScore | None:
    """The look's figures as they are now: later looks of the run make its corrected p-value larger."""
    if found.mean is None:
        return None
    return CardScore(
        mean=found.mean,
        lo=found.lo,
        hi=found.hi,
        interval=INTERVAL,
        n=len(found.seeds),
        baseline_mean=found.baseline_mean,
        delta=found.mean - found.baseline_mean,
        verdict=found.verdict,
        p=found.p,
        p_corrected=found.p_corrected,
        looks=found.looks,
    )


def engine_failed(job: Job) -> bool:
    """It has no result, and its program is not to blame."""
    return job.failure is None or job.failure.kind == "INFRA"


def hidden_baseline(
    bench: Bench, n_seeds: int, on_event: OnEvent | None = None, cancel: threading.Event | None = None
) -> Baseline:
    """This machine's baseline of the hidden split, else the shipped one, else it is measured now.

    Raises:
        Interrupted: it was cancelled; what was measured is kept.
        EvaluationError: the unchanged repository has no valid score.
    """
    known = baseline_for(bench.env, bench.preset_name, "hidden", bench.runtime)
    if known is not None and known.n >= MIN_BASELINE_SEEDS:
        return known
    n = max(n_seeds, MIN_BASELINE_SEEDS)
    return calibrate(bench, n, split="hidden", on_progress=on_event, cancel=cancel)


def finding_of(jobs: Sequence[Job], found: Fidelity, baseline: Baseline, direction: Literal["min", "max"]) -> Finding:
    """What the jobs of a look say; a seed that failed makes it invalid."""
    evaluations = [job.evaluation for job in jobs]
    scored = [e for e in evaluations if e is not None]
    refused = [reason for e in scored for reason in e.reasons]
    failed = [f"{job.failure.kind}: {job.failure.reason}" for job in jobs if not job.evaluation and job.failure]
    unscored = ["the evaluator found no value" for e in scored if e.value is None and not e.reasons]
    return Finding(
        direction=direction,
        values=tuple(e.value if e is not None and e.valid else None for e in evaluations),
        reasons=tuple(dict.fromkeys([*refused, *failed, *unscored])),
        compute_ratio=statistics.fmean(e.compute_ratio for e in scored) if scored else 0.0,
        fidelity=found,
        baseline=baseline,
    )


def read_confirmations(run_dir: Path) -> tuple[Confirmation, ...]:
    """Every look that was ended, in order, corrected for all looks so far: also those that came later, or never ended.

    Raises:
        StoreError: a look's file is damaged.
    """
    looks = read_looks(run_dir)
    return tuple(judged(look, look.finding, len(looks)) for look in looks if look.finding is not None)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the values of a look say, before they are corrected for other looks."""

    mean: float
    half_width: float
    """Of the mean's 95 % confidence interval."""
    gain: float
    test: Comparison


def figures_of(found: Finding, values: Sequence[float], expected: ExpectedBaseline) -> Figures:
    """Mean, gain and test of a valid look."""
    k, mean, variance = len(values), statistics.fmean(values), statistics.variance(values)
    gain = expected.mean - mean if found.direction == "min" else mean - expected.mean
    of_baseline = (found.baseline.sd**2 * expected.inverse_n, found.baseline.n - 1)
    half_width = student_t_quantile((1 + CONFIDENCE) / 2, k - 1) * math.sqrt(variance / k)
    return Figures(mean, half_width, gain, compare(gain, (variance / k, k - 1), of_baseline))


def judged(look: Look, found: Finding, n_looks: int) -> Confirmation:
    """A look's figures and verdict, when the run has so many looks."""
    values = [value for value in found.values if value is not None]
    expected = baseline_at(found.baseline, found.compute_ratio)
    figures = figures_of(found, values, expected) if len(values) == len(look.seeds) else None
    p_corrected = min(1.0, figures.test.p * n_looks) if figures else None
    return Confirmation(
        number=look.number,
        idea_id=look.idea_id,
        tree=look.tree,
        seeds=look.seeds,
        values=found.values,
        mean=figures.mean if figures else None,
        lo=figures.mean - figures.half_width if figures else None,
        hi=figures.mean + figures.half_width if figures else None,
        baseline_mean=expected.mean,
        baseline_sd=found.baseline.sd,
        baseline_n=found.baseline.n,
        gain=figures.gain if figures else None,
        gain_lo=figures.test.lo if figures else None,
        gain_hi=figures.test.hi if figures else None,
        p=figures.test.p if figures else None,
        p_corrected=p_corrected,
        looks=n_looks,
        compute_ratio=found.compute_ratio,
        fidelity=found.fidelity,
        verdict=verdict_of(p_corrected, found.fidelity),
        reasons=found.reasons,
        baseline=found.baseline,
        direction=found.direction,
    )


def verdict_of(p_corrected: float | None, found: Fidelity) -> ConfirmVerdict:
    """The rule: "confirmed" below 0.05, and never for a patch that has no effect."""
    if p_corrected is None:
        return "invalid"
    return "confirmed" if p_corrected < ALPHA and found != "no_effect" else "not_confirmed"
