"""What the host itself checks about a result, on record by name also where it passed.

The evaluator sees a checkpoint's answers; only the host knows which files were changed, what was served and used, and
what the patch is made of.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xar_agent.envs.spec import Preset
from xar_agent.errors import EvaluationError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.evaluation import MAX_MESSAGE, Measurement
from xar_agent.jobs.job_plan import OVERTIME_S
from xar_agent.jobs.recitation import recitation_check
from xar_agent.jobs.training import Training
from xar_agent.jobs.types import Check, Failure, FailureClass
from xar_agent.sandbox.protocol import Patch

HOST_CHECKS = ("protected_files", "budget", "compute", "recitation")
"""In evaluation.json of every result, besides the evaluator's own."""

KILL_S = 10.0
"""Until all processes of a run that is late have ended."""


def with_host_checks(found: Measurement, bench: Bench, patch: Patch, training: Training) -> Measurement:
    """The measurement with the host's checks; a failed one makes it invalid and leaves its value as it is.

    That of the compute is charge's: see ``with_compute_check``.

    Raises:
        EvaluationError: the data set or the checkpoint cannot be read.
    """
    assert training.checkpoint is not None
    checks = (
        protected_files_check(bench),
        budget_check(bench.preset, training),
        checked_recitation(bench, patch, training.checkpoint),
    )
    return with_checks(found, checks)


def with_checks(found: Measurement, checks: tuple[Check, ...]) -> Measurement:
    """The measurement with further checks; the first failure stays the one that is told."""
    failed = [check for check in checks if not check.passed]
    failure = found.failure
    if failed and failure is None:
        reasons = "; ".join(f"{check.name}: {check.reason}" for check in failed)
        failure = Failure(FailureClass.INVALID, reasons[:MAX_MESSAGE])
    return replace(found, checks=(*found.checks, *checks), failure=failure)


def protected_files_check(bench: Bench) -> Check:
    """Digest, mode and link target of every protected file were the host's own, and no forbidden file was there.

    They are compared whenever a workspace is made (smoke test, job, each worker) and again when training has ended; a
    difference ends the work with class INTEGRITY, so whatever is scored has passed. The figure is their number.
    """
    return Check("protected_files", True, figure=float(len(bench.protected.files)))


def budget_check(preset: Preset, training: Training) -> Check:
    """What the host served or timed, in units of the preset's clock, against the budget."""
    if preset.clock == "seconds":
        used, limit, unit = training.trained_s, preset.budget + OVERTIME_S + KILL_S, "seconds"
    else:
        used, limit, unit = float(training.tokens), float(preset.budget), preset.clock
    reason = "" if used <= limit else f"used {used:,.0f} {unit} of {limit:,.0f}"
    return Check("budget", used <= limit, reason, used)


def checked_recitation(bench: Bench, patch: Patch, checkpoint: Path) -> Check:
    """Neither patch nor checkpoint carries the held-out text.

    Raises:
        EvaluationError: something cannot be read.
    """
    try:
        return recitation_check(patch, bench.preset, bench.data, checkpoint)
    except OSError as error:
        raise EvaluationError(f"cannot compare with the held-out text: {error}") from error
