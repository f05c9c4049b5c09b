"""Between the evaluator and the candidate's workers: the host passes frames on and enforces what a worker may take.

A worker runs the candidate's code and never sees a label. Whatever it does wrong becomes an answer to the evaluator.
"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from xar_agent.envs.spec import Preset
from xar_agent.errors import EvaluationError
from xar_agent.jobs.bench import WORKER, Bench
from xar_agent.jobs.classify import verdict_by_end
from xar_agent.jobs.frames import Frame, FrameError, FramePipe, Late, WrongShape, error_frame
from xar_agent.jobs.full_disk import blame_full_disk, blame_stopped
from xar_agent.jobs.outputs import OUT
from xar_agent.jobs.types import FailureClass
from xar_agent.sandbox import open_sandbox
from xar_agent.sandbox.protocol import Bind, Process, Sandbox

MAX_REPLY = 256 << 20
MAX_WORKERS = 8
END_S = 5.0
"""A worker whose pipe has closed ends within this time, or has closed it on purpose."""
TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the host waits for a worker, in seconds."""

    start_s: float = 120.0
    """It imports torch first; on a loaded machine that took 20 s."""
    call_s: float = 120.0
    send_s: float = 60.0
    total_s: float = 900.0
    """Wall-clock seconds from the evaluation's start, its own work included; no worker is answered for afterwards."""
    cpu_s: float | None = None
    """CPU seconds of any one worker. None: counted, not limited."""


PATIENCE = Patience()
GPU_PATIENCE = Patience(start_s=600.0, call_s=600.0, send_s=120.0, total_s=3600.0)
"""Large models are compiled first, and ten million tokens are scored."""


def patience_of(preset: Preset) -> Patience:
    """By the size of what is scored."""
    return GPU_PATIENCE if preset.gpus else PATIENCE


@dataclass(slots=True)
class Worker:
    """A running worker of the candidate."""

    sandbox: Sandbox
    process: Process
    pipe: FramePipe
    busy_s: float = 0.0
    """That the host waited for it."""


@dataclass(slots=True)
class Relay:
    """Everything between one evaluator and its workers."""

    bench: Bench
    tree: str
    checkpoint: Path
    folder: Path
    patience: Patience
    cancel: threading.Event | None
    workers: dict[str, Worker] = field(default_factory=dict)
    blame: FailureClass | None = None
    """What kind of failure a worker of the candidate had first."""
    cpu_s: float = 0.0
    """Of the costliest worker so far."""
    busy_s: float = 0.0
    """The longest that the host waited for one worker, from its start on."""
    n_started: int = 0
    begun: float = field(default_factory=time.monotonic)

    def answer(self, frame: Frame) -> Frame:
        """What the host says to one frame of the evaluator.

        Raises:
            EvaluationError: the evaluator asks for what there is not.
            SandboxLost: a worker's sandbox is gone; that is not the candidate's fault.
        """
        name = str(frame.header.get("id"))
        if frame.op == "worker" and name not in self.workers and self.n_started < MAX_WORKERS:
            return self._start(name)
        if frame.op == "call":
            return self._call(name, frame)
        if frame.op == "stop":
            self._stop(name)
            return Frame({"op": "ok"})
        raise EvaluationError(f"the evaluator asked for {frame.op!r} of worker {name!r}")

    def close(self) -> None:
        """End every worker."""
        for name in list(self.workers):
            self._stop(name)

    def stderr_path(self, number: int) -> Path:
        """What one worker printed."""
        return self.folder / f"worker-{number}.log"

    def _start(self, name: str) -> Frame:
        """A worker in a sandbox of its own over a fresh, read-only checkout."""
        self.n_started += 1
        home = self.folder / f"worker-{self.n_started}"
        workspace = self.bench.checkout(self.tree, home)
        self._add_checkpoint(workspace / OUT)
        binds = (Bind(self.bench.env.folder / self.bench.env.file.worker, WORKER),)
        spec = self.bench.sandbox_spec(workspace, binds=binds, writable=False, name="worker", gpus=True)
        sandbox = open_sandbox(self.bench.backend, spec)
        sandbox.start()
        try:
            argv = [self.bench.python, "-P", sandbox.path_of(WORKER)]
            stderr_path, limit_s = self.stderr_path(self.n_started), self.patience.cpu_s
            process = sandbox.spawn(argv, timeout_s=self._left(), cpu_s=limit_s, stderr_path=stderr_path)
        except BaseException:
            sandbox.close()
            raise
        worker = Worker(sandbox, process, FramePipe(process, self.cancel))
        self.workers[name] = worker
        return self._receive(name, worker, self.patience.start_s, 0)

    def _add_checkpoint(self, out: Path) -> None:
        """Copies that the worker's user can read, whatever the umask."""
        out.mkdir(exist_ok=True)
        out.chmod(0o755)
        for path in self.checkpoint.iterdir():
            shutil.copyfile(path, out / path.name)
            (out / path.name).chmod(0o644)

    def _call(self, name: str, frame: Frame) -> Frame:
        worker = self.workers.get(name)
        if worker is None:
            return error_frame("the worker has ended")
        if not self._left():
            return self._give_up(name, Late("has used up the time of the evaluation"))
        head, max_reply = frame.header.get("head"), frame.header.get("max_reply")
        if not isinstance(head, dict) or type(max_reply) is not int or max_reply < 0:
            raise EvaluationError("the evaluator made a call without head or max_reply")
        try:
            worker.pipe.send(Frame(head, frame.payload), timeout_s=min(self.patience.send_s, self._left()))
        except FrameError as error:
            return self._give_up(name, error)
        return self._receive(name, worker, self.patience.call_s, min(max_reply, MAX_REPLY))

    def _receive(self, name: str, worker: Worker, timeout_s: float, max_payload: int) -> Frame:
        begun = time.monotonic()
        try:
            reply = worker.pipe.receive(timeout_s=min(timeout_s, self._left()), max_payload=max_payload)
        except FrameError as error:
            return self._give_up(name, error)
        finally:
            worker.busy_s += time.monotonic() - begun
            self.busy_s = max(self.busy_s, worker.busy_s)
        if reply.op == "error":
            self.blame = self.blame or FailureClass.CONTRACT
        return reply

    def _give_up(self, name: str, error: FrameError) -> Frame:
        """A worker that broke the rules of the pipe, or its limits, is ended; the evaluator hears why.

        Raises:
            SandboxLost: it ended because its sandbox did.
            StoreError: the disk is full.
        """
        kinds = {Late: FailureClass.TIMEOUT, WrongShape: FailureClass.SHAPE}
        found = kinds.get(type(error), FailureClass.CONTRACT), str(error)
        if type(error) is FrameError:
            found = limit_of(self.workers[name].process) or found
        self.blame = self.blame or found[0]
        process = self.workers[name].process
        self._stop(name)
        if type(error) is FrameError:
            blame_full_disk(self.folder, "the evaluation")
            blame_stopped(self.folder, "the evaluation", process.wait())
        return error_frame(f"the worker {found[1]}")

    def _stop(self, name: str) -> None:
        worker = self.workers.pop(name, None)
        if worker:
            used_s = worker.process.cpu_s()
            worker.process.kill()
            self.cpu_s = max(self.cpu_s, used_s, worker.process.cpu_s())  # the last word comes with its end
            worker.sandbox.close()

    def _left(self) -> float:
        return max(self.begun + self.patience.total_s - time.monotonic(), 0.0)


def limit_of(process: Process) -> tuple[FailureClass, str] | None:
    """Which limit ended a worker; None when none did, or when it still runs.

    Raises:
        SandboxLost: its sandbox is gone.
    """
    deadline = time.monotonic() + END_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(TICK_S)
    return verdict_by_end(process.wait())
