"""What a run came to: a small table for a person, one object for a program."""

from __future__ import annotations

import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.analysis.text import duration, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xar_agent.agent.run import IdeaResult
    from xar_agent.agent.types import Implementation
    from xar_agent.cli.plan import Plan
    from xar_agent.envs.spec import Baseline, EnvSpec
    from xar_agent.jobs.measured import Measured
    from xar_agent.jobs.types import Evaluation, Fidelity, Job, Score, SmokeReport, Verdict

VERDICT_STYLES = {
    "better": "bold green",
    "within_noise": "yellow",
    "worse": "bold red",
    "invalid": "bold red",
    "none": "dim",
}
VERDICT_WORDS = {
    "better": "better than the baseline",
    "within_noise": "within noise: chance alone could explain the difference",
    "worse": "worse than the baseline",
    "invalid": "invalid: a validity check failed",
    "none": "none: there is nothing to compare with",
}
FIDELITY_WORDS = {
    "effect": "the patch changes training",
    "no_effect": "no effect: the same-seed run equals the baseline's",
    "unknown": "unknown",
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
        """The score's, or "none"."""
        return self.score.verdict if self.score else "none"

    @property
    def scored(self) -> bool:
        """A full run finished and has a valid score."""
        return any(evaluation.valid for evaluation in self.evaluations) and self.verdict != "invalid"

    @property
    def why_not(self) -> str:
        """In one line, why there is no valid score; empty when there is one."""
        if self.scored:
            return ""
        refused = [reason for evaluation in self.evaluations for reason in evaluation.reasons]
        failed = [f"{job.failure.kind}: {job.failure.reason}" for job in self.jobs if job.failure]
        untested = (
            [f"{self.smoke.failure.kind}: {self.smoke.failure.reason}"] if self.smoke and self.smoke.failure else []
        )
        ended = [self.implementation.exit_reason] if self.implementation else []
        return next(iter([*refused, *failed, *untested, *ended]), "")


def result_of(plan: Plan, run_dir: Path, outcome: IdeaResult, duration_s: float) -> Result:
    """What came of an idea, with the places where it lies."""
    from xar_agent.jobs.measured import Measured

    made = outcome.implementation
    assert made is not None
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
    )


def result_json(result: Result) -> dict[str, Any]:
    """The object that ``implement --json`` and ``evaluate --json`` print."""
    made, smoke, baseline = result.implementation, result.smoke, result.baseline
    job = result.jobs[-1] if result.jobs else None
    reason = smoke.failure.reason if smoke and smoke.failure else ""
    return {
        "run_dir": str(result.run_dir),
        "idea_id": result.idea_id,
        "outcome": made.outcome if made else "submitted",
        "exit_reason": made.exit_reason if made else "a given patch",
        "patch_path": str(result.patch_path) if result.patch_path else None,
        "trajectory_path": str(made.trajectory) if made else None,
        "smoke": {"passed": smoke.passed, "reason": reason} if smoke else None,
        "job": {"id": job.id, "state": str(job.state)} if job else None,
        "evaluation": evaluation_json(result.evaluations),
        **({"evaluations": [one_json(e) for e in result.evaluations]} if len(result.jobs) > 1 else {}),
        "baseline": baseline_json(baseline) if baseline else None,
        "verdict": result.verdict,
        "fidelity": result.fidelity,
        "steps": made.steps if made else 0,
        "tokens": {"input": made.usage.input_tokens if made else 0, "output": made.usage.output_tokens if made else 0},
        "cost_usd": made.usage.cost_usd if made else 0.0,
        "model": made.model if made else None,
        "sandbox": result.sandbox,
        "duration_s": round(result.duration_s, 1),
    }


def baseline_json(baseline: Baseline) -> dict[str, Any]:
    """The baseline's distribution and where it was measured."""
    return {"mean": baseline.mean, "sd": baseline.sd, "n": baseline.n, "machine": baseline.machine}


def one_json(evaluation: Evaluation) -> dict[str, Any]:
    """One seed."""
    return {
        "metric": evaluation.metric,
        "value": evaluation.value,
        "direction": evaluation.direction,
        "valid": evaluation.valid,
        "reasons": list(evaluation.reasons),
        "seed": evaluation.seed,
        "compute_ratio": evaluation.compute_ratio,
    }


def evaluation_json(evaluations: tuple[Evaluation, ...]) -> dict[str, Any] | None:
    """The only seed, or the mean over several; valid when all are."""
    if not evaluations:
        return None
    values = [e.value for e in evaluations if e.value is not None]
    return {
        **one_json(evaluations[0]),
        "value": statistics.fmean(values) if values else None,
        "valid": all(e.valid for e in evaluations),
        "reasons": list(dict.fromkeys(reason for e in evaluations for reason in e.reasons)),
        "compute_ratio": statistics.fmean(e.compute_ratio for e in evaluations),
    }


def result_table(result: Result) -> RenderableType:
    """A label and a value a line."""
    from rich.text import Text

    from xar_agent.cli.terminal import facts_grid

    rows: list[tuple[str, str | Text]] = []
    if result.score and result.score.mean is not None:
        rows += [(label, Text(text, style=style)) for label, text, style in score_rows(result)]
    elif not result.scored:
        rows.append(("score", Text("none", style="bold red" if result.jobs else "")))
    if result.why_not:
        rows.append(("because", Text(printable(result.why_not), style="red")))
    return facts_grid([*rows, *cost_rows(result), *place_rows(result)])


def score_rows(result: Result) -> list[tuple[str, str, str]]:
    """Label, text and style of everything that was measured."""
    score, baseline = result.score, result.baseline
    assert score is not None
    better = "lower" if result.env.direction == "min" else "higher"
    seeds = f", mean of {score.n} seeds" if score.n > 1 else ""
    rows = [("score", f"{score.mean:.4f} {result.env.metric} ({better} is better{seeds})", "bold")]
    if baseline is not None:
        rows.append(("baseline", baseline_text(baseline), ""))
    if baseline is not None and score.delta is not None:
        in_sd = f" = {score.delta / baseline.sd:+.1f} sd" if baseline.sd > 0 else ""
        rows.append(("delta", f"{score.delta:+.4f}{in_sd}", ""))
    if baseline is None:
        name, preset = result.env.name, result.jobs[0].spec.preset
        rows.append(("baseline", f"none yet: xar-agent envs calibrate {name} --preset {preset}", "yellow"))
    rows.append(("verdict", VERDICT_WORDS[score.verdict], VERDICT_STYLES[score.verdict]))
    rows.append(("fidelity", FIDELITY_WORDS[result.fidelity], "yellow" if result.fidelity == "no_effect" else ""))
    ratio = statistics.fmean(e.compute_ratio for e in result.evaluations)
    rows.append(("compute", f"{ratio:.2f} x the baseline's{compared_at(result)}", ""))
    return rows


def baseline_text(baseline: Baseline) -> str:
    """``2.4312 ± 0.0061 (n = 24, shipped: measured on ...)``."""
    whose = f"shipped, measured on {baseline.machine}" if baseline.shipped else "this machine"
    return f"{baseline.mean:.4f} ± {baseline.sd:.4f} (n = {baseline.n}, {whose})"


def compared_at(result: Result) -> str:
    """With which baseline a patch that computes more or less was compared."""
    expected = result.score.baseline_mean if result.score else None
    if expected is None or result.baseline is None or expected == result.baseline.mean:
        return ""
    return f", which reaches {expected:.4f} with as much"


def cost_rows(result: Result) -> list[tuple[str, str]]:
    """What it cost."""
    made = result.implementation
    if made is None:
        return [("time", duration(result.duration_s))]
    price = "unknown price" if made.usage.cost_usd is None else f"${made.usage.cost_usd:.2f}"
    tokens = f"{made.usage.input_tokens:,} tokens in, {made.usage.output_tokens:,} out"
    return [("cost", f"{price}, {tokens}, {made.steps} steps, {duration(result.duration_s)}")]


def place_rows(result: Result) -> list[tuple[str, str]]:
    """Where everything lies, and what to type next."""
    rows = [("run", shown(result.run_dir))]
    nexts = []
    if result.implementation is not None:
        nexts.append(f"xar-agent replay {typed(result.implementation.trajectory.parent)}")
    if result.patch_path is not None and result.scored:
        nexts.append(f"xar-agent evaluate {typed(result.patch_path)} --env {result.env.name} --seeds 3")
    nexts.append(f"xar-agent runs show {result.run_dir.name}{runs_dir_flag(result.run_dir)}")
    rows.extend(("next" if i == 0 else "", text) for i, text in enumerate(nexts))
    return rows


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def typed(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(shown(path))


def runs_dir_flag(run_dir: Path) -> str:
    """What ``runs show`` needs in order to find the run again from here."""
    from xar_agent.config import load_settings

    return "" if load_settings().runs_dir == run_dir.parent else f" --runs-dir {typed(run_dir.parent)}"


def print_result(result: Result, *, as_json: bool) -> None:
    """The result on stdout, for a program or for a person."""
    from xar_agent.cli.terminal import print_json, progress_console, result_console, show_parts

    if as_json:
        print_json(result_json(result))
        return
    progress = progress_console()
    if progress.is_terminal:
        progress.print()
    show_parts(result_console(), result_table(result))
