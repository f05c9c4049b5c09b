"""What a run came to: a small table for a person, one object for a program."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.errors import BudgetReached, EvaluationError, SandboxError, XarError

if TYPE_CHECKING:
    from xar_agent.agent.run import IdeaResult
    from xar_agent.agent.types import Implementation
    from xar_agent.cli.plan import Plan
    from xar_agent.envs.spec import Baseline, EnvSpec
    from xar_agent.jobs.measured import Measured
    from xar_agent.jobs.types import Evaluation, Fidelity, Job, Score, SmokeReport, Verdict


ENDED_MEASURING = (BudgetReached, SandboxError, EvaluationError)
"""What ends a command whose idea or patch is on record: the result so far is told all the same."""
OUTCOME_WORDS = {
    "gave_up": "gave up",
    "over_budget": "ran out of its budget",
    "stuck": "went round in circles",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One idea or patch, from the model to the verdict. None stands for what was not reached."""

    env: EnvSpec
    run_dir: Path
    idea_id: str
    patch_path: Path | None
    implementation: Implementation | None
    """None for a person's own diff."""
    smoke: SmokeReport | None
    measured: Measured | None
    sandbox: str
    duration_s: float
    error: XarError | None = None
    """What ended it early."""

    @property
    def outcome(self) -> str:
        """How the episode ended, or what an error made of it."""
        if self.error is not None:
            return "over_budget" if isinstance(self.error, BudgetReached) else "failed"
        return self.implementation.outcome if self.implementation else "submitted"

    @property
    def exit_reason(self) -> str:
        """Why it ended, in words."""
        if self.error is not None:
            return self.error.message
        return self.implementation.exit_reason if self.implementation else "a given patch"

    @property
    def jobs(self) -> tuple[Job, ...]:
        """One for each seed, if it came to training."""
        return self.measured.jobs if self.measured else ()

    @property
    def score(self) -> Score | None:
        """Over all seeds."""
        return self.measured.score if self.measured else None

    @property
    def fidelity(self) -> Fidelity:
        """Whether the patch has any effect."""
        return self.measured.fidelity if self.measured else "unknown"

    @property
    def baseline(self) -> Baseline | None:
        """What the score is compared with."""
        return self.measured.baseline if self.measured else None

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """One for each seed that got as far as the evaluator."""
        return tuple(job.evaluation for job in self.jobs if job.evaluation is not None)

    @property
    def verdict(self) -> Verdict:
        """The score's, or "none"; also "none" when training was ended early."""
        return self.score.verdict if self.score and not self.error else "none"

    @property
    def card_path(self) -> Path | None:
        """The card of a scored result."""
        from xar_agent.jobs.card import FILE

        path = self.run_dir / "impl" / self.idea_id / FILE
        return path if self.scored and path.is_file() else None

    @property
    def scored(self) -> bool:
        """A full run finished and has a valid score."""
        found = any(evaluation.valid for evaluation in self.evaluations)
        return found and self.error is None and self.verdict != "invalid"

    @property
    def implemented(self) -> bool:
        """The idea became a patch whose smoke test passed, which is all that ``--no-submit`` asks for."""
        tested = self.smoke is not None and self.smoke.passed
        return tested and self.outcome == "submitted" and not self.is_unchanged

    @property
    def is_unchanged(self) -> bool:
        """The agent's patch is empty."""
        return self.implementation is not None and not self.implementation.patch.diff

    @property
    def why_not(self) -> str:
        """In one line, why there is no valid score; empty when there is one."""
        if self.scored:
            return ""
        if self.error is not None:
            return self.error.message
        refused = [reason for evaluation in self.evaluations for reason in evaluation.reasons]
        failed = [f"{job.failure.kind}: {job.failure.reason}" for job in self.jobs if job.failure]
        untested = (
            [f"{self.smoke.failure.kind}: {self.smoke.failure.reason}"] if self.smoke and self.smoke.failure else []
        )
        ended = [ending_of(self.implementation)] if self.implementation else []
        return next(iter([*refused, *failed, *untested, *ended]), "")


def result_of(
    plan: Plan, run_dir: Path, outcome: IdeaResult, duration_s: float, error: XarError | None = None
) -> Result:
    """What came of an idea, with the places where it lies."""
    from xar_agent.jobs.measured import Measured

    made = outcome.implementation
    patch_path = made.trajectory.parent / "patch.diff"
    score = outcome.score
    measured = Measured(tuple(outcome.jobs), score, outcome.fidelity, outcome.baseline) if score else None
    return Result(
        env=plan.env,
        run_dir=run_dir,
        idea_id=made.idea.id,
        patch_path=patch_path if patch_path.is_file() else None,
        implementation=made,
        smoke=made.smoke,
        measured=measured,
        sandbox=plan.sandbox.backend,
        duration_s=duration_s,
        error=error,
    )


def result_json(result: Result) -> dict[str, Any]:
    """The object that ``implement --json`` and ``evaluate --json`` print."""
    from xar_agent.analysis.quarantine import flags_of
    from xar_agent.analysis.report_json import evaluation_json

    made, smoke, baseline = result.implementation, result.smoke, result.baseline
    job = result.jobs[-1] if result.jobs else None
    reason = smoke.failure.reason if smoke and smoke.failure else ""
    return {
        "run_dir": str(result.run_dir),
        "idea_id": result.idea_id,
        "outcome": result.outcome,
        "exit_reason": result.exit_reason,
        "patch_path": str(result.patch_path) if result.patch_path else None,
        "trajectory_path": str(made.trajectory) if made else None,
        "smoke": {"passed": smoke.passed, "reason": reason} if smoke else None,
        "job": {"id": job.id, "state": str(job.state)} if job else None,
        "evaluation": mean_json(result.evaluations),
        **({"evaluations": [evaluation_json(e) for e in result.evaluations]} if len(result.jobs) > 1 else {}),
        "baseline": baseline_json(baseline) if baseline else None,
        "verdict": result.verdict,
        "fidelity": result.fidelity,
        "quarantined": quarantined_json(result),
        "flags": list(flags_of(result.evaluations)),
        "card_path": str(result.card_path) if result.card_path else None,
        "steps": made.steps if made else 0,
        "tokens": {"input": made.usage.input_tokens if made else 0, "output": made.usage.output_tokens if made else 0},
        "cost_usd": made.usage.cost_usd if made else 0.0,
        "model": made.model if made else None,
        "sandbox": result.sandbox,
        "duration_s": round(result.duration_s, 1),
    }


def quarantined_json(result: Result) -> list[dict[str, Any]]:
    """Every check that a seed failed, with the value that it had."""
    from xar_agent.analysis.quarantine import failed_checks

    return [
        {"seed": one.seed, "value": one.value, "check": check or None, "reason": reason}
        for one in result.evaluations
        for check, reason in failed_checks(one)
    ]


def baseline_json(baseline: Baseline) -> dict[str, Any]:
    """The baseline's distribution and where it was measured."""
    return {"mean": baseline.mean, "sd": baseline.sd, "n": baseline.n, "machine": baseline.machine}


def mean_json(evaluations: tuple[Evaluation, ...]) -> dict[str, Any] | None:
    """The only seed, or the mean over several; valid when all are."""
    from xar_agent.analysis.quarantine import flags_of
    from xar_agent.analysis.report_json import evaluation_json

    if not evaluations:
        return None
    values = [e.value for e in evaluations if e.value is not None]
    return {
        **evaluation_json(evaluations[0]),
        "value": statistics.fmean(values) if values else None,
        "valid": all(e.valid for e in evaluations),
        "reasons": list(dict.fromkeys(reason for e in evaluations for reason in e.reasons)),
        "flags": list(flags_of(evaluations)),
        "compute_ratio": statistics.fmean(e.compute_ratio for e in evaluations),
    }


def ending_of(implementation: Implementation) -> str:
    """How the episode ended, in words."""
    reason = implementation.exit_reason
    if implementation.outcome == "submitted":
        return reason
    changed = "" if implementation.patch.diff else "; nothing was changed"
    return f"the agent {OUTCOME_WORDS[implementation.outcome]}: {reason}{changed}"
