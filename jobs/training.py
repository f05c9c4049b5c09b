"""One training run in a fresh sandbox: start it, follow its curve, end it at its limits, take its checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import Interrupted, PatchRefused
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.classify import classify, log_tail, verdict_by_end
from xar_agent.jobs.feed import Clock, Feed, open_feed
from xar_agent.jobs.full_disk import blame_full_disk, blame_stopped
from xar_agent.jobs.job_plan import LAUNCHER, OVERTIME_S, JobPlan, job_plan
from xar_agent.jobs.limits import checkpoint_mib
from xar_agent.jobs.outputs import BadOutput, CurveFollower, CurvePoint, collect_checkpoint, open_up
from xar_agent.jobs.types import Failure, FailureClass
from xar_agent.jobs.watch import Progress, Watch
from xar_agent.sandbox import open_sandbox
from xar_agent.sandbox.protocol import WORKSPACE, Bind, ExecResult, Sandbox, SandboxSpec

OUTPUT_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What decides a training run."""

    tree: str
    seed: int
    budget: int
    wall_s: float
    """Limit of the whole program, whatever its clock says."""
    cpu_cap_s: float | None
    """None: counted, not limited."""
    clock: Clock = "tokens"
    """Unit of the budget."""
    overtime_s: float = OVERTIME_S
    """After a budget of seconds."""

    @classmethod
    def of(
        cls,
        bench: Bench,
        tree: str,
        seed: int,
        *,
        budget: int | None = None,
        wall_s: float | None = None,
        cpu_cap_s: float | None = None,
    ) -> TrainingPlan:
        """A run on the preset's clock, with its budget and its wall limit where no other is given."""
        preset = bench.preset
        return cls(
            tree,
            seed,
            preset.budget if budget is None else budget,
            preset.wall_s if wall_s is None else wall_s,
            cpu_cap_s,
            preset.clock,
        )


@dataclass(frozen=True, slots=True)
class Training:
    """What a training run did and left. With a failure there is no checkpoint."""

    failure: Failure | None
    checkpoint: Path | None
    """Folder with the files out/checkpoint*."""
    checkpoint_sha256: str
    tokens: int
    """Served by the host."""
    cpu_s: float
    wall_s: float
    curve: tuple[CurvePoint, ...]
    trained_s: float = 0.0
    """By the host's clock, to the program's end: from its first token, or from its start where its data is a folder."""


@dataclass(slots=True)
class Use:
    """What training has cost so far, also when it ends in an exception."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


def train(
    bench: Bench,
    plan: TrainingPlan,
    folder: Path,
    *,
    log_path: Path,
    curve_path: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    use: Use | None = None,
) -> Training:
    """Train one tree from a clean checkout.

    Args:
        bench: where.
        plan: what.
        folder: new, host side; the caller removes it.
        log_path: receives the output.
        curve_path: receives the good lines of the curve.
        on_progress: called when the curve has grown.
        cancel: ends the run when set.
        use: what the run costs is added to it.

    Raises:
        Interrupted: it was cancelled.
        SandboxError: the sandbox failed, not the run.
    """
    workspace = bench.checkout(plan.tree, folder)
    if failure := changed_files(bench, workspace):
        return Training(failure, None, "", 0, 0.0, 0.0, ())
    follower = CurveFollower(workspace, curve_path)
    with open_feed(bench, folder, seed=plan.seed, budget=plan.budget, clock=plan.clock) as feed:
        with open_sandbox(bench.backend, training_spec(bench, workspace, feed)) as sandbox:
            watch = Watch(sandbox, follower, feed, plan.overtime_s, on_progress, cancel)
            result = run_watched(bench, plan, sandbox, watch, log_path, use or Use())
            trained_s, inside = feed.trained_s, sandbox.path_of(WORKSPACE)
        tokens = feed.tokens
    with suppress(BadOutput):  # whoever looks for the checkpoint says so
        open_up(workspace)
    follower.finish()
    if watch.late_s is not None and result.exit_code != 0:
        failure, digest = went_on(result, plan, watch.late_s), ""
    else:
        failure, digest = judge(bench, workspace, result, folder, inside)
    return Training(
        failure=failure,
        checkpoint=None if failure else folder / "checkpoint",
        checkpoint_sha256=digest,
        tokens=tokens,
        cpu_s=result.cpu_s,
        wall_s=result.duration_s,
        curve=tuple(follower.points),
        trained_s=trained_s,
    )


def went_on(result: ExecResult, plan: TrainingPlan, late_s: float) -> Failure:
    """The run was ended because it did not end by itself when its seconds were used up."""
    reason = (
        f"went on {late_s:.0f} s after its budget of {plan.budget} s "
        f"({plan.overtime_s:.0f} s are for saving and ending)"
    )
    return Failure(FailureClass.TIMEOUT, reason, log=log_tail(result.output))


def training_spec(bench: Bench, workspace: Path, feed: Feed) -> SandboxSpec:
    """The sandbox of a training run: the repository, the launcher and the data, nothing else of ours."""
    binds = (Bind(bench.launcher, LAUNCHER), feed.bind)
    return bench.sandbox_spec(workspace, binds=binds, name="train", gpus=True)


def plan_in(sandbox: Sandbox, bench: Bench, plan: TrainingPlan) -> JobPlan:
    """How this run's program is started in this sandbox."""
    return job_plan(
        bench.env,
        bench.preset_name,
        seed=plan.seed,
        budget=plan.budget,
        wall_s=plan.wall_s,
        python=bench.python,
        place=sandbox.path_of,
    )


def run_watched(
    bench: Bench, plan: TrainingPlan, sandbox: Sandbox, watch: Watch, log_path: Path, use: Use
) -> ExecResult:
    """Run to the end while another thread follows the curve and waits for a cancellation.

    Raises:
        Interrupted: it was cancelled.
    """
    job = plan_in(sandbox, bench, plan)
    watch.start()
    try:
        result = sandbox.exec(
            job.command,
            env=job.environment,
            timeout_s=job.wall_s,
            cpu_s=plan.cpu_cap_s,
            max_bytes=OUTPUT_BYTES,
            log_path=log_path,
        )
        use.cpu_s, use.wall_s = use.cpu_s + result.cpu_s, use.wall_s + result.duration_s
    finally:
        watch.stop()
    if watch.cancelled:
        raise Interrupted("cancelled during training")
    return result


def changed_files(bench: Bench, workspace: Path) -> Failure | None:
    """The failure when protected files are not what the host knows, or forbidden ones are there."""
    try:
        bench.check_protected(workspace)
    except PatchRefused as error:
        return Failure(FailureClass.INTEGRITY, error.message)
    return None


def judge(bench: Bench, workspace: Path, result: ExecResult, folder: Path, inside: str) -> tuple[Failure | None, str]:
    """Why an ended run counts as failed, or the digest of its checkpoint."""
    if result.exit_code != 0 or result.timed_out or result.stopped_by:
        crash = classify(result.output, result, bench.env, workspace=inside)
        blame_stopped(folder, "training", result)
        if verdict_by_end(result) is None:
            blame_full_disk(folder, "training")
        return crash, ""
    if failure := changed_files(bench, workspace):
        return failure, ""
    try:
        max_bytes = checkpoint_mib(bench.preset) << 20
        return None, collect_checkpoint(workspace, folder / "checkpoint", max_bytes=max_bytes)
    except BadOutput as error:
        blame_full_disk(folder, "training")
        return Failure(FailureClass.CONTRACT, str(error), log=result.output[-8192:]), ""
