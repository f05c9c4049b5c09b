"""A run's ideas with what became of them: scores are derived here from the recorded evaluations, never read.

The archive only grows. An idea whose tree was trained for an earlier idea has no jobs of its own and points there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xar_agent.agent.types import Idea
from xar_agent.envs.spec import Baseline
from xar_agent.jobs.lock import is_active
from xar_agent.jobs.records import IdeaRecord, ImplementationRecord
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import score, with_failed_jobs, with_fidelity
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, Fidelity, Job, JobState, Score
from xar_agent.population.types import Outcome


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
    same_as: str = ""
    """Id of the idea whose training counts for this one, too: both came to the same tree. Empty for an own one."""

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """One a seed."""
        return tuple(job.evaluation for job in self.jobs if job.evaluation is not None)

    @property
    def state(self) -> str:
        """How far it came, in one word: a verdict, else the last job's state, else the agent's outcome."""
        if self.score is not None:
            return self.score.verdict
        if self.same_as:
            return "duplicate"
        if self.jobs:
            return str(self.jobs[-1].state)
        return self.implementation.outcome if self.implementation else "begun"

    @property
    def failed_job(self) -> Failure | None:
        """Why its last job has no evaluation; None where there is one, or no job."""
        found = (job.failure for job in reversed(self.jobs) if job.evaluation is None and job.failure is not None)
        return next(found, None)

    @property
    def failure_class(self) -> FailureClass | None:
        """Why it has no valid score, as a class of the one list; None when it has one or was not tried to its end."""
        if self.same_as or (self.score is not None and self.score.verdict not in ("invalid", "none")):
            return None
        if self.failed_job is not None:
            return self.failed_job.kind
        if self.evaluations:
            return None if all(evaluation.valid for evaluation in self.evaluations) else FailureClass.INVALID
        if self.jobs or self.implementation is None:
            return None
        smoke = self.implementation.smoke
        if self.implementation.outcome == "submitted":
            return None
        return smoke.failure.kind if smoke is not None and smoke.failure is not None else FailureClass.CODE

    @property
    def reason(self) -> str:
        """Why it has no valid score, in one line; empty when it has one or none was tried."""
        if self.failed_job is not None:
            return self.failed_job.reason
        refused = [reason for evaluation in self.evaluations for reason in evaluation.reasons]
        if refused or self.jobs or self.same_as or self.implementation is None:
            return next(iter(refused), "")
        smoke, ended = self.implementation.smoke, self.implementation.exit_reason
        return f"{ended} (smoke test: {smoke.failure.reason})" if smoke is not None and smoke.failure else ended

    @property
    def failure(self) -> str:
        """The same with its class in front where it has one."""
        kind = self.failure_class
        return f"{kind}: {self.reason}" if kind is not None else self.reason

    @property
    def gain(self) -> float | None:
        """How far its mean is on the good side of the baseline at its compute, in the metric's unit."""
        if self.score is None or self.score.delta is None or not self.evaluations:
            return None
        return -self.score.delta if self.evaluations[0].direction == "min" else self.score.delta


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
    """One idea with everything that the run has about it but scores on the hidden split, which are confirm's."""
    jobs = [job for job in read_jobs(store, idea.id) if job.spec.split == "val"]
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
    twins = jobs_of_tree(store, made[-1]) if made and not jobs else ()
    same_as = twins[0].spec.idea_id if twins else ""
    if twins and all(job.state.ended and job.evaluation is None for job in twins):
        judged, same_as = twins, ""  # the very same code failed: so does this idea
    prices = [spent.cost_usd for spent in store.spend(idea.id)]
    known = [price for price in prices if price is not None]
    cost = sum(known) if len(known) == len(prices) else None
    return Candidate(idea, made[-1] if made else None, judged, scored, fidelity, baseline, cost, same_as)


def jobs_of_tree(store: RunStore, made: ImplementationRecord) -> tuple[Job, ...]:
    """The jobs of the other idea that had this tree trained; none when none had."""
    if made.outcome != "submitted":
        return ()
    jobs = [job for job in read_jobs(store) if job.spec.tree == made.tree and job.spec.split == "val"]
    return tuple(job for job in jobs if job.spec.idea_id == jobs[0].spec.idea_id)


def outcome_of(store: RunStore, idea: Idea) -> Outcome:
    """One idea as policies and prompts see it."""
    one = candidate_of(store, IdeaRecord(idea.id, idea.text, idea.env, idea.parents, idea.origin, idea.epoch))
    made = one.implementation
    path = store.dir / made.patch_path if made else None
    return Outcome(
        idea=idea,
        score=one.score,
        gain=one.gain,
        failure=one.failure_class,
        reason=same_code_as(one.same_as) if one.same_as else one.reason,
        diff=path.read_text(errors="replace") if path and path.is_file() else "",
        tree=made.tree if made else "",
        fidelity=one.fidelity,
        same_as=one.same_as,
    )


def same_code_as(idea_id: str) -> str:
    """Why an idea has no training of its own."""
    return f"it came to the same code as idea {idea_id}"


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
    """Sort key: valid scores first, from the best to the worst by gain; without a baseline by the score itself."""
    found = candidate.score
    if found is None or found.mean is None or found.verdict == "invalid":
        return (1, 0.0)
    if candidate.gain is not None:
        return (0, -candidate.gain)
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
        "flags": list(dict.fromkeys(flag for evaluation in candidate.evaluations for flag in evaluation.flags)),
        "same_as": candidate.same_as or None,
        "patch_path": str(run_dir / made.patch_path) if made else None,
        "cost_usd": candidate.cost_usd,
        "jobs": [{"id": job.id, "state": str(job.state), "seed": job.spec.seed} for job in candidate.jobs],
    }
