"""What only runs can show: that training works and repeats itself, that a claim is no score, that cheats are caught."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import EvaluationError, Interrupted, PatchRefused, SandboxError
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.envcheck_patches import forged_tree
from xar_agent.jobs.findings import Finding, failed, missing, ok, warning
from xar_agent.jobs.smoke import run_smoke
from xar_agent.jobs.types import Failure, FailureClass, JobSpec, JobState
from xar_agent.jobs.worker import JobOutcome, run_job
from xar_agent.sandbox.protocol import Patch

SEED, OTHER_SEED = 1, 2
CHEATS = "cheats"
CAUGHT_BY = re.compile(r"#\s*caught by:\s*(.+)")
NO_EFFECT = "no_effect"
"""What a cheat's first line says where the patch is let in and simply gains nothing."""
SAME = 1e-9
"""Relative: a score that went through JSON."""
BY_FAILURE = {FailureClass.INTEGRITY: "protected_files", FailureClass.TIMEOUT: "budget"}
"""The check that a failure without an evaluation stands for."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the unchanged repository scores."""

    value: float
    tolerance: float
    """How far two runs of one seed may lie apart and still be the same."""


@dataclass(slots=True)
class Examination:
    """The runs of one check, each once."""

    bench: Bench
    on_stage: Callable[[str], None]
    cancel: threading.Event
    known: Known | None = None
    n_runs: int = 0

    def run(self, tree: str, seed: int, stage: str) -> JobOutcome:
        """One job from patch to score.

        Raises:
            PatchRefused: the tree holds what a patch may not.
            Interrupted: it was cancelled.
        """
        self.on_stage(stage)
        patch = self.bench.diff(tree)
        self.n_runs += 1
        name = f"check-{self.n_runs}"
        with self.bench.leased(self.cancel) as bench:
            spec = JobSpec(name, stage, bench.env.name, bench.preset_name, seed, patch, tree)
            outcome = run_job(bench, spec, bench.run_dir / "jobs" / name, cancel=self.cancel)
        if outcome.state is JobState.CANCELLED:
            raise Interrupted("cancelled during the check")
        return outcome


def check_smoke(bench: Bench, cancel: threading.Event) -> Finding:
    """The unchanged repository passes its smoke test."""
    try:
        report = run_smoke(bench, bench.base_tree, log_path=bench.run_dir / "smoke.log", cancel=cancel)
    except (EvaluationError, SandboxError) as error:
        return failed(
            "smoke", error.message, "mend the evaluator; docs/environment-contract.md says what is asked of it"
        )
    if report.failure:
        return failed("smoke", described(report.failure), "the unchanged repository must pass: mend it")
    return ok("smoke", f"passes in {report.duration_s:.1f} s")


def check_runs(examination: Examination) -> Iterator[Finding]:
    """Two runs of one seed, one of another, and one that claims a score."""
    base = examination.bench.base_tree
    first = examination.run(base, SEED, "train, seed 1")
    value = value_of(first)
    if value is None or first.evaluation is None:
        yield failed("train", reason_of(first), "the unchanged repository must train and be valid: mend it")
        return
    evaluation = first.evaluation
    took = f"{first.train_cpu_s:.1f} CPU-s, {first.train_wall_s:.1f} s"
    yield ok("train", f"{evaluation.metric} {value:.6g} at seed {SEED}; training took {took}")
    again, other = (
        value_of(examination.run(base, *how)) for how in ((SEED, "train again"), (OTHER_SEED, "train, seed 2"))
    )
    if again is None or other is None:
        yield failed("repeat", "another run of the unchanged repository has no valid score", "make it train reliably")
        return
    finding, examination.known = compared(examination.bench, value, again, other)
    yield finding
    yield check_claim(examination)


def compared(bench: Bench, value: float, again: float, other: float) -> tuple[Finding, Known]:
    """Whether two runs of one seed agree, beside what another seed changes."""
    apart, noise = abs(value - again), abs(value - other)
    if baseline := baseline_for(bench.env, bench.preset_name, runtime=bench.runtime):
        noise = max(noise, baseline.sd)
    exact = apart <= SAME * abs(value)
    known = Known(value, SAME * abs(value) if exact else 3 * max(apart, noise))
    seen = f"seed {SEED} twice: {value:.6g} and {again:.6g}; seed {OTHER_SEED}: {other:.6g}"
    seeds = "seed every generator with XAR_SEED (random, numpy, torch, data order), and use one thread"
    if exact and noise == 0:
        return warning(
            "repeat", f"{seen}: seeds change nothing", "let training follow XAR_SEED, so that noise shows"
        ), known
    if exact:
        return ok("repeat", seen), known
    if 3 * apart <= noise:
        return warning("repeat", f"{seen}: one seed differs by {apart:.2g}, less than seeds do", seeds), known
    return failed("repeat", f"{seen}: one seed differs by {apart:.2g}, seeds by {noise:.2g}", seeds), known


def check_claim(examination: Examination) -> Finding:
    """A program that prints and writes a score of its own gets the one that it deserves."""
    assert examination.known is not None
    try:
        forged = forged_tree(examination.bench)
        if forged is None:
            return warning("claims", "no program is editable, so none was made to claim a score", "is editable right?")
        outcome = examination.run(forged[0], SEED, "a claimed score")
    except PatchRefused as error:
        return ok("claims", f"a program that claims a score is refused: {error.message}")
    value, known = value_of(outcome), examination.known
    if value is None:
        return ok("claims", f"a program that claims a score is refused: {reason_of(outcome)}")
    if abs(value - known.value) <= known.tolerance:
        return ok("claims", f"a score that {forged[1]} prints and writes changes nothing: {value:.6g}")
    text = f"{forged[1]} claimed a score and got {value:.6g} instead of {known.value:.6g}"
    return failed("claims", text, "let evaluator.py compute the score itself, from a worker's answers alone")


def check_cheats(examination: Examination, *, all_of_them: bool) -> Iterator[Finding]:
    """Each planted cheat, or the first alone, is rejected by the check that it names."""
    folder = examination.bench.env.folder / CHEATS
    paths = sorted(folder.glob("*.diff"))
    if not paths:
        advice = f"plant one: {folder.name}/NAME.diff, its first line '# caught by: CHECK'"
        yield missing("cheats", "no cheat is planted, so nothing shows that one would be caught", advice)
        return
    for path in paths if all_of_them else paths[:1]:
        yield check_cheat(examination, path)
    if not all_of_them and len(paths) > 1:
        yield ok("cheats", f"1 of {len(paths)} was tried; --cheats tries all")


def check_cheat(examination: Examination, path: Path) -> Finding:
    """One planted cheat."""
    point = f"cheat {path.stem}"
    text = path.read_text(encoding="utf-8")
    named = CAUGHT_BY.match(text)
    if named is None:
        return failed(point, "its first line names no check", f"begin {path.name} with '# caught by: CHECK'")
    wanted = {word for word in re.split(r"[,\s]+(?:or\s+)?", named[1].strip()) if word}
    caught, outcome = caught_by(examination, text, path.stem)
    if wanted & caught:
        return ok(point, f"caught by {', '.join(sorted(wanted & caught))}")
    advice = "let the evaluator catch it, or correct the first line of the patch"
    if caught:
        return failed(
            point, f"{named[1].strip()} let it pass; caught by {', '.join(sorted(caught))}: {outcome}", advice
        )
    return failed(point, f"not caught: {outcome}", advice)


def caught_by(examination: Examination, text: str, stage: str) -> tuple[set[str], str]:
    """Names of all checks that reject a patch, and what happened."""
    bench = examination.bench
    diff = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    patch = Patch(bench.base_tree, diff, (), 0, 0, hashlib.sha256(diff.encode()).hexdigest())
    try:
        outcome = examination.run(bench.add_patch(patch), SEED, f"cheat {stage}")
    except PatchRefused as error:
        return {FailureClass.INTEGRITY.value, BY_FAILURE[FailureClass.INTEGRITY]}, error.message
    names = {check.name for check in outcome.evaluation.checks if not check.passed} if outcome.evaluation else set()
    if outcome.failure:
        names |= {outcome.failure.kind.value, *filter(None, (BY_FAILURE.get(outcome.failure.kind),))}
    value, known = value_of(outcome), examination.known
    if value is not None and known is not None and abs(value - known.value) <= known.tolerance:
        names.add(NO_EFFECT)
    return names, reason_of(outcome) if value is None else f"it scored {value:.6g}"


def value_of(outcome: JobOutcome) -> float | None:
    """The score of a valid run; None of any other."""
    evaluation = outcome.evaluation
    return evaluation.value if evaluation is not None and evaluation.valid else None


def reason_of(outcome: JobOutcome) -> str:
    """Why a run has no valid score."""
    return described(outcome.failure) if outcome.failure else "no valid score"


def described(failure: Failure) -> str:
    """Class, reason and place."""
    place = f" ({failure.file}:{failure.line})" if failure.file else ""
    return f"{failure.kind}: {failure.reason}{place}"
