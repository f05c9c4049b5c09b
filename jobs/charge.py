"""What a candidate computes while it is scored counts too: training inside ``model.load`` is not free.

The workers of an evaluation run the candidate's code and nobody serves them tokens, but the patch, the checkpoint or
the audited text could be trained on there. So one worker has an allowance, and what it uses beyond that is charged to
the run as if it had been training: CPU seconds, or the host's waiting for it where seconds are the budget.
"""

from __future__ import annotations

from xar_agent.envs.spec import Preset
from xar_agent.jobs.checks import with_checks
from xar_agent.jobs.evaluation import Measurement
from xar_agent.jobs.job_plan import OVERTIME_S
from xar_agent.jobs.limits import ends_itself
from xar_agent.jobs.probe import CpuReference
from xar_agent.jobs.training import Training
from xar_agent.jobs.types import Check

FREE_CPU_S = 6.0
"""Importing torch and answering; nanogpt's untouched model needs 5 to 6 in all. What is not needed is free training."""
FREE_SHARE = 0.05
"""Of the baseline's training: a larger data set is scored on more text as well. The verdict tolerates a tenth."""
FREE_WALL_S = 180.0
"""Of waiting, where seconds are the budget: a GPU's context and a model's compilation besides. Assumed."""
FREE_WALL_OF_TARGET_S = 300.0
"""Where the time to a target is the score, so that nothing can be charged: beyond this a result is not valid."""
LEAST_LIMIT_S = 30.0
"""No worker is ended before this many CPU seconds: what is over the cap is told as a failed check instead."""


def free_cpu_s(reference: CpuReference) -> float:
    """CPU seconds that one worker may use without being charged."""
    return FREE_CPU_S + FREE_SHARE * reference.baseline_cpu_s


def worker_limit_s(reference: CpuReference, train_cpu_s: float) -> float | None:
    """CPU seconds after which a worker is ended: the allowance and what training has left of the cap; None: never."""
    if not reference.counted:
        return None
    return max(free_cpu_s(reference) + max(reference.cap_s - train_cpu_s, 0.0), LEAST_LIMIT_S)


def charged_cpu_s(reference: CpuReference, train_cpu_s: float, worker_cpu_s: float) -> float:
    """CPU seconds that count as training: the training itself, and the costliest worker beyond its allowance."""
    return train_cpu_s + max(worker_cpu_s - free_cpu_s(reference), 0.0)


def over_wall_s(preset: Preset, worker_wall_s: float) -> float:
    """Seconds beyond the allowance of a worker that the host waited for one; 0 where seconds are not the budget."""
    if preset.clock != "seconds":
        return 0.0
    free_s = FREE_WALL_OF_TARGET_S if ends_itself(preset) else FREE_WALL_S + FREE_SHARE * preset.budget
    return max(worker_wall_s - free_s, 0.0)


def compute_ratio(preset: Preset, reference: CpuReference, training: Training, found: Measurement) -> float:
    """What a run used as a multiple of what the baseline is given: CPU seconds, else the share of its clock."""
    if reference.counted:
        return charged_cpu_s(reference, training.cpu_s, found.worker_cpu_s) / reference.baseline_cpu_s
    if preset.clock != "seconds":
        return training.tokens / preset.budget
    return (training.trained_s + over_wall_s(preset, found.worker_wall_s)) / preset.budget


def with_compute_check(found: Measurement, reference: CpuReference, train_cpu_s: float) -> Measurement:
    """The measurement with the check of what was computed; failed where training and workers went over the cap."""
    used_s = charged_cpu_s(reference, train_cpu_s, found.worker_cpu_s) if reference.counted else train_cpu_s
    within = not reference.counted or found.worker_cpu_s <= free_cpu_s(reference) or used_s <= reference.cap_s
    if within:
        return with_checks(found, (Check("compute", True, figure=used_s),))
    reason = (
        f"{train_cpu_s:.1f} CPU seconds of training and {found.worker_cpu_s:.1f} of a worker that scores "
        f"(free: {free_cpu_s(reference):.1f}) are over the cap of {reference.cap_s:.1f}"
    )
    return with_checks(found, (Check("compute", False, reason, used_s),))


def with_time_check(found: Measurement, preset: Preset, training: Training) -> Measurement:
    """The same check where seconds are the budget and nobody counts CPU: training and a slow worker are over it."""
    over_s = over_wall_s(preset, found.worker_wall_s)
    used_s = training.trained_s + over_s
    allowed_s = training.trained_s if ends_itself(preset) else preset.budget + OVERTIME_S
    if not over_s or used_s <= allowed_s:
        return with_checks(found, (Check("compute", True, figure=used_s),))
    reason = (
        f"{training.trained_s:.0f} s of training and {found.worker_wall_s:.0f} s of waiting for a worker that scores "
        f"(free: {found.worker_wall_s - over_s:.0f}) are over the budget of {preset.budget}"
    )
    return with_checks(found, (Check("compute", False, reason, used_s),))
