"""A run's ideas with what became of them: scores are derived here from the recorded evaluations, never read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xar_agent.envs.spec import Baseline
from xar_agent.jobs.lock import is_active
from xar_agent.jobs.records import IdeaRecord, ImplementationRecord
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import score, with_failed_jobs, with_fidelity
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, Fidelity, Job, JobState, Score


@dataclass(frozen=True, slots=True)
class Candidate:
    """An idea, its latest implementation, and its score."""

    idea: IdeaRecord
    implementation: ImplementationRecord | None
    """None for a person's own diff, or while the agent is at work."""
    jobs: tuple[Job, ...]
    """Full runs of the patch that was submitted last, one a seed."""
    score: Score | None
    """None when no job got as far as the evaluator."""
    fidelity: Fidelity
    baseline: Baseline | None
    cost_usd: float | None
    """Of all model calls; None when any price is unknown."""

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """One a seed."""
        return tuple(job.evaluation for job in self.jobs if job.evaluation is not None)

    @property
    def state(self) -> str:
        """How far it came, in one word: a verdict, else the last job's state, else the agent's outcome."""
        if self.score is not None:
            return self.score.verdict
        if self.jobs:
            return str(self.jobs[-1].state)
        return self.implementation.outcome if self.implementation else "begun"

    @property
    def failure(self) -> str:
        """Why it has no score, in one line; empty when it has one or none was tried."""
        for job in reversed(self.jobs):
            if job.evaluation is None and job.failure is not None:
                return f"{job.failure.kind}: {job.failure.reason}"
        refused = [reason for evaluation in self.evaluations for reason in evaluation.reasons]
        ended = self.implementation.exit_reason if self.implementation and not self.jobs else ""
        return next(iter(refused), ended)


def read_jobs(store: RunStore, idea_id: str | None = None) -> tuple[Job, ...]:
    """The jobs as they really are: one that was under way when its command was killed is lost."""
    jobs = store.jobs(idea_id)
    if is_active(store.dir):
        return jobs
    killed = Failure(FailureClass.INFRA, "the command that ran it ended before it did")
    return tuple(job if job.state.ended else replace(job, state=JobState.LOST, failure=killed) for job in jobs)


def read_candidates(store: RunStore) -> tuple[Candidate, ...]:
    """All ideas of a run: scored ones first, best first, then the others in their order."""
    found = [candidate_of(store, idea) for idea in store.ideas()]
    return tuple(sorted(found, key=rank))


def candidate_of(store: RunStore, idea: IdeaRecord) -> Candidate:
    """One idea with everything that the run has about it."""
    jobs = read_jobs(store, idea.id)
    made = store.implementations(idea.id)
    judged = jobs_of_last_patch(jobs, [row.tree for row in made])
    evaluations = [job.evaluation for job in judged if job.evaluation is not None]
    finding = store.finding(idea.id)
    baseline = finding.baseline if finding else None
    fidelity: Fidelity = finding.fidelity if finding else "unknown"
    scored = None
    if evaluations:
        scored = with_failed_jobs(score(evaluations, baseline, evaluations[0].direction), judged)
        scored = with_fidelity(scored, fidelity)
    prices = [spent.cost_usd for spent in store.spend(idea.id)]
    known = [price for price in prices if price is not None]
    cost = sum(known) if len(known) == len(prices) else None
    return Candidate(idea, made[-1] if made else None, judged, scored, fidelity, baseline, cost)


def jobs_of_last_patch(jobs: Sequence[Job], trees: Sequence[str]) -> tuple[Job, ...]:
    """The jobs that count: those of the patch that was submitted last; earlier ones crashed and were repaired.

    Args:
        jobs: of one idea, oldest first.
        trees: of its implementations, oldest first; none for a person's own diff.
    """
    measured = {job.spec.tree for job in jobs}
    last = next((tree for tree in reversed(trees) if tree in measured), jobs[-1].spec.tree if jobs else "")
    return tuple(job for job in jobs if job.spec.tree == last)


def rank(candidate: Candidate) -> tuple[int, float]:
    """Sort key: valid scores first, from the best to the worst."""
    found = candidate.score
    if found is None or found.mean is None or found.verdict == "invalid":
        return (1, 0.0)
    sign = 1.0 if candidate.evaluations[0].direction == "min" else -1.0
    return (0, sign * found.mean)


def candidate_json(candidate: Candidate, run_dir: Path) -> dict[str, Any]:
    """One row of ``runs show --json``."""
    found, made = candidate.score, candidate.implementation
    return {
        "idea_id": candidate.idea.id,
        "text": candidate.idea.text,
        "epoch": candidate.idea.epoch,
        "origin": candidate.idea.origin,
        "parents": list(candidate.idea.parents),
        "outcome": made.outcome if made else None,
        "failure": candidate.failure or None,
        "score": {"mean": found.mean, "lo": found.lo, "hi": found.hi, "n": found.n} if found else None,
        "verdict": found.verdict if found else "none",
        "fidelity": candidate.fidelity,
        "patch_path": str(run_dir / made.patch_path) if made else None,
        "cost_usd": candidate.cost_usd,
        "jobs": [{"id": job.id, "state": str(job.state), "seed": job.spec.seed} for job in candidate.jobs],
    }
