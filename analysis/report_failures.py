"""Why an idea has no valid score: a class and one line, from whatever the run has on record about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import StoreError
from xar_agent.jobs.records import IdeaRecord, load
from xar_agent.jobs.types import FailureClass, SmokeReport
from xar_agent.population.archive import Candidate
from xar_agent.population.decisions import Result


@dataclass(frozen=True, slots=True)
class Reason:
    """Why there is no valid score."""

    kind: FailureClass | None
    """None when the agent ended by itself or by a limit, without a failure of its code."""
    text: str
    """One line; a model or a patch may have written it."""
    outcome: str = "failed"
    """How the episode ended."""

    @property
    def name(self) -> str:
        """The class, else how the episode ended."""
        return str(self.kind) if self.kind else self.outcome


def read_smoke(run_dir: Path, idea_id: str) -> SmokeReport | None:
    """The smoke test of a person's own diff, which has no implementation on record."""
    try:
        return load(SmokeReport, (run_dir / "impl" / idea_id / "smoke.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, StoreError):
        return None


def is_open(candidate: Candidate, run_dir: Path) -> bool:
    """No result is known yet."""
    if candidate.jobs:
        return any(not job.state.ended for job in candidate.jobs)
    if candidate.implementation is not None:
        return candidate.implementation.outcome == "submitted"
    smoke = read_smoke(run_dir, candidate.idea.id)
    return smoke is None or smoke.passed


def reason_of(candidate: Candidate, run_dir: Path, result: Result | None) -> Reason | None:
    """Why an idea whose result is in has no valid score; None when it has one."""
    found = candidate.score
    if found is not None and found.mean is not None and found.verdict != "invalid":
        return None
    return reason_of_jobs(candidate) or reason_of_episode(candidate, run_dir) or reason_of_result(result)


def reason_of_jobs(candidate: Candidate) -> Reason | None:
    """The failure of the latest full run, or the first check that an evaluation did not pass."""
    for job in reversed(candidate.jobs):
        if job.failure is not None:
            return Reason(job.failure.kind, job.failure.reason)
    refused = [reason for evaluation in candidate.evaluations for reason in evaluation.reasons]
    return Reason(FailureClass.INVALID, refused[0] if refused else "not valid") if candidate.jobs else None


def reason_of_episode(candidate: Candidate, run_dir: Path) -> Reason | None:
    """The last smoke test's failure, or how the episode ended."""
    made = candidate.implementation
    smoke = made.smoke if made else read_smoke(run_dir, candidate.idea.id)
    if smoke is not None and smoke.failure is not None:
        return Reason(smoke.failure.kind, smoke.failure.reason, made.outcome if made else "failed")
    if made is None or made.outcome == "submitted":
        return None
    return Reason(None, made.exit_reason, made.outcome)


def reason_of_result(result: Result | None) -> Reason:
    """What the manager took note of."""
    if result is None:
        return Reason(None, "no reason is on record")
    kind = FailureClass(result.failure) if result.failure in FailureClass.__members__ else None
    return Reason(kind, result.reason or "no reason is on record")


def same_trees(ideas: Sequence[IdeaRecord], candidates: Sequence[Candidate]) -> Mapping[str, str]:
    """Ideas that were not trained because an earlier one had made the very same tree: id -> the earlier one's id.

    Args:
        ideas: oldest first.
        candidates: in any order.
    """
    known = {candidate.idea.id: candidate for candidate in candidates}
    first: dict[str, str] = {}
    repeats = {}
    for idea in ideas:
        candidate = known.get(idea.id)
        made = candidate.implementation if candidate else None
        if candidate is None or made is None or not made.tree or made.outcome != "submitted":
            continue
        if made.tree in first and not candidate.jobs:
            repeats[idea.id] = first[made.tree]
        first.setdefault(made.tree, idea.id)
    return repeats
