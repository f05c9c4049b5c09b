"""One training run in a fresh sandbox: start it, follow its curve, end it at its limits, take its checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import Interrupted, PatchRefused
from xar_agent.jobs.bench import LAUNCHER, SOCKET, Bench
from xar_agent.jobs.classify import classify, verdict_by_end
from xar_agent.jobs.full_disk import blame_full_disk, blame_stopped
from xar_agent.jobs.outputs import BadOutput, CurveFollower, CurvePoint, collect_checkpoint, open_up
from xar_agent.jobs.stream import TokenServer
from xar_agent.jobs.types import Failure, FailureClass
from xar_agent.sandbox import open_sandbox
from xar_agent.sandbox.protocol import Bind, ExecResult, Sandbox, SandboxSpec

FOLLOW_S = 0.5
OUTPUT_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What decides a training run."""

    tree: str
    seed: int
    budget: int
    wall_s: float
    cpu_cap_s: float | None
    """None: counted, not limited."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; the tokens are those that the host served, the loss is the candidate's own word."""

    tokens: int
    budget: int
    step: int
    loss: float | None
    eta_s: float | None


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
    with TokenServer(bench.train_tokens, budget=plan.budget, seed=plan.seed, folder=folder) as server:
        spec = training_spec(bench, workspace, server.path)
        with open_sandbox(bench.backend, spec) as sandbox:
            watch = Watch(sandbox, follower, server, plan.budget, on_progress, cancel)
            result = run_watched(bench, plan, sandbox, watch, log_path, use or Use())
            workspace_inside = sandbox.path_of("/workspace")
        tokens = server.served
    with suppress(BadOutput):  # whoever looks for the checkpoint says so
        open_up(workspace)
    follower.finish()
    failure, digest = judge(bench, workspace, result, folder, workspace_inside)
    checkpoint = None if failure else folder / "checkpoint"
    return Training(failure, checkpoint, digest, tokens, result.cpu_s, result.duration_s, tuple(follower.points))


def training_spec(bench: Bench, workspace: Path, socket: Path) -> SandboxSpec:
    """The sandbox of a training run: the repository, the launcher and the token stream, nothing else of ours."""
    binds = (Bind(bench.launcher, LAUNCHER), Bind(socket, SOCKET))
    return bench.sandbox_spec(workspace, binds=binds, name="train", gpus=True)


def training_environment(sandbox: Sandbox, plan: TrainingPlan) -> Mapping[str, str]:
    """What a training program is told."""
    return {"XAR_DATA": sandbox.path_of(SOCKET), "XAR_BUDGET": str(plan.budget), "XAR_SEED": str(plan.seed)}


def training_command(bench: Bench, sandbox: Sandbox) -> list[str]:
    """The environment's train command under the host's launcher."""
    return [bench.python, "-P", sandbox.path_of(LAUNCHER), *bench.env.file.train]


def run_watched(
    bench: Bench, plan: TrainingPlan, sandbox: Sandbox, watch: Watch, log_path: Path, use: Use
) -> ExecResult:
    """Run to the end while another thread follows the curve and waits for a cancellation.

    Raises:
        Interrupted: it was cancelled.
    """
    watch.start()
    try:
        result = sandbox.exec(
            training_command(bench, sandbox),
            env=training_environment(sandbox, plan),
            timeout_s=plan.wall_s,
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


class Watch:
    """The thread beside a training run."""

    def __init__(
        self,
        sandbox: Sandbox,
        follower: CurveFollower,
        server: TokenServer,
        budget: int,
        on_progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self._sandbox = sandbox
        self._follower = follower
        self._server = server
        self._budget = budget
        self._on_progress = on_progress
        self._cancel = cancel
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-training", daemon=True)
        self._begun = time.monotonic()
        self._error: BaseException | None = None
        self.cancelled = False

    def start(self) -> None:
        """Begin to watch."""
        self._begun = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """The run has ended.

        Raises:
            StoreError: the curve could not be written, and the run was killed. What ``on_progress`` raised is the same.
        """
        self._done.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # it belongs to whoever waits for the run
            self._error = error
            self._sandbox.kill_all()

    def _follow(self) -> None:
        while not self._done.wait(FOLLOW_S):
            if self._cancel and self._cancel.is_set():
                # Again each round: the command may not have begun when the request came.
                self.cancelled = True
                self._sandbox.kill_all()
            elif (point := self._follower.poll()) and self._on_progress:
                self._on_progress(self._progress(point))

    def _progress(self, point: CurvePoint) -> Progress:
        tokens = self._server.served
        spent_s = time.monotonic() - self._begun
        eta_s = spent_s * (self._budget - tokens) / tokens if tokens else None
        return Progress(tokens, self._budget, point.step, point.loss, eta_s)


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
        return None, collect_checkpoint(workspace, folder / "checkpoint")
    except BadOutput as error:
        blame_full_disk(folder, "training")
        return Failure(FailureClass.CONTRACT, str(error), log=result.output[-8192:]), ""
