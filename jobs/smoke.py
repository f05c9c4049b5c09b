"""The small job before the large one: train a few steps, load through the contract, score training text."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from xar_agent.envs.spec import Preset
from xar_agent.errors import PatchRefused
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.evaluation import evaluate
from xar_agent.jobs.recitation import NAME as RECITATION
from xar_agent.jobs.recitation import data_in_patch
from xar_agent.jobs.training import Training, TrainingPlan, train
from xar_agent.jobs.types import Failure, FailureClass, SmokeReport
from xar_agent.sandbox.protocol import Patch
from xar_agent.store import store_errors

SMOKE_WALL_S = 180.0
"""Loading torch on a loaded machine takes 20 s; a few steps take less."""
GPU_SMOKE_WALL_S = 900.0
"""Several processes begin, and the model is compiled."""
SMOKE_SEED = 0


def run_smoke(
    bench: Bench,
    tree: str,
    *,
    log_path: Path,
    cancel: threading.Event | None = None,
) -> SmokeReport:
    """Try a tree in fresh sandboxes on the way that its job will take.

    Args:
        bench: what to measure with.
        tree: in the run's store.
        log_path: receives the training program's output.
        cancel: ends it when set.

    Raises:
        EvaluationError, SandboxError: the house failed, not the tree.
        CapabilityMissing: this machine has not the GPUs that it needs.
        Interrupted: it was cancelled.
        StoreError: the disk is full, or the log cannot be written.
    """
    begun = time.monotonic()
    try:
        patch = bench.diff(tree)
    except PatchRefused as error:
        failure = Failure(FailureClass.INTEGRITY, error.message)
        return SmokeReport("", tree, False, failure, None, None, time.monotonic() - begun, 0.0)
    if reason := data_in_patch(patch, bench.preset):
        failure = Failure(FailureClass.INTEGRITY, f"{RECITATION}: {reason}")
        return SmokeReport(patch.sha256, tree, False, failure, None, None, time.monotonic() - begun, 0.0)
    with store_errors(log_path, "write"), bench.leased(cancel) as bench, bench.scratch_folder("smoke") as folder:
        begun = time.monotonic()
        log_path.parent.mkdir(parents=True, exist_ok=True)
        budget, wall_s = smoke_budget(bench.preset), smoke_wall_s(bench.preset)
        plan = TrainingPlan.of(bench, tree, SMOKE_SEED, budget=budget, wall_s=wall_s)
        training = train(bench, plan, folder / "train", log_path=log_path, cancel=cancel)
        verdict = training.failure
        if training.checkpoint is not None:
            found = evaluate(bench, tree, training.checkpoint, folder / "evaluate", split="smoke", cancel=cancel)
            verdict = found.failure
    return report(patch, tree, training, verdict, time.monotonic() - begun)


def smoke_budget(preset: Preset) -> int:
    """In units of the preset's clock: its ``smoke_seconds`` or ``smoke_tokens``, else a small part of the whole."""
    if preset.clock == "seconds":
        return int(preset.settings.get("smoke_seconds", max(2, preset.budget // 20)))
    return int(preset.settings.get("smoke_tokens", preset.budget // 100))


def smoke_wall_s(preset: Preset) -> float:
    """Limit of the whole program in seconds."""
    return min(GPU_SMOKE_WALL_S if preset.gpus else SMOKE_WALL_S, preset.wall_s)


def report(patch: Patch, tree: str, training: Training, failure: Failure | None, duration_s: float) -> SmokeReport:
    """What the agent is told."""
    losses = [point.loss for point in training.curve if point.loss is not None]
    return SmokeReport(
        patch_sha256=patch.sha256,
        tree=tree,
        passed=failure is None,
        failure=failure,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        duration_s=duration_s,
        cpu_s=training.cpu_s,
    )
