"""The trusted evaluator's host half: it starts the evaluator and the candidate's workers and relays between them.

The evaluator has the validation text; a worker has the candidate's code and never sees a label. Both speak in frames
(jobs/frames.py), each in a sandbox of its own, and only the host talks to both.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xar_agent.errors import EvaluationError
from xar_agent.jobs.bench import EVALUATOR, VALIDATION, WORKER, Bench
from xar_agent.jobs.classify import last_frame, log_tail
from xar_agent.jobs.frames import Frame, FrameError, FramePipe, WrongShape, error_frame
from xar_agent.jobs.outputs import OUT
from xar_agent.jobs.types import Check, Failure, FailureClass
from xar_agent.sandbox import open_sandbox
from xar_agent.sandbox.protocol import Bind, Process, Sandbox

Split = Literal["val", "hidden", "smoke"]
MAX_EVALUATOR_PAYLOAD = 64 << 20
MAX_REPLY = 256 << 20
MAX_WORKERS = 8
MAX_FRAMES = 100_000
MAX_MESSAGE = 2000
MIN_WALL_S = 300.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the host waits for a worker, in seconds."""

    start_s: float = 120.0
    """It imports torch first; on a loaded machine that took 20 s."""
    call_s: float = 120.0
    send_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the evaluator found."""

    value: float | None
    metrics: dict[str, float]
    checks: tuple[Check, ...]
    failure: Failure | None
    """Why it is not valid; None when every check passed."""
    audit_seed: int
    """Was secret while the evaluation ran."""
    worker_cpu_s: float

    @property
    def valid(self) -> bool:
        """There is a value and every check passed."""
        return self.failure is None


@dataclass(slots=True)
class Worker:
    """A running worker of the candidate."""

    sandbox: Sandbox
    process: Process
    pipe: FramePipe


@dataclass(slots=True)
class Relay:
    """Everything between one evaluator and its workers."""

    bench: Bench
    tree: str
    checkpoint: Path
    folder: Path
    deadline: float
    """time.monotonic() at which the whole evaluation is late."""
    cancel: threading.Event | None
    patience: Patience
    workers: dict[str, Worker] = field(default_factory=dict)
    blame: FailureClass | None = None
    """What kind of failure a worker of the candidate had first."""
    cpu_s: float = 0.0
    n_started: int = 0

    def answer(self, frame: Frame) -> Frame:
        """What the host says to one frame of the evaluator.

        Raises:
            EvaluationError: the evaluator asks for what there is not.
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
        out = workspace / OUT
        out.mkdir(exist_ok=True)
        for path in self.checkpoint.iterdir():
            (out / path.name).write_bytes(path.read_bytes())
        binds = (Bind(self.bench.env.folder / self.bench.env.file.worker, WORKER),)
        spec = self.bench.sandbox_spec(workspace, binds=binds, writable=False, name="worker")
        sandbox = open_sandbox(self.bench.backend, spec)
        sandbox.start()
        try:
            argv = [self.bench.python, "-P", sandbox.path_of(WORKER)]
            process = sandbox.spawn(argv, timeout_s=self._left(), stderr_path=self.stderr_path(self.n_started))
        except BaseException:
            sandbox.close()
            raise
        worker = Worker(sandbox, process, FramePipe(process, self.cancel))
        self.workers[name] = worker
        return self._receive(name, worker, self.patience.start_s, 0)

    def _call(self, name: str, frame: Frame) -> Frame:
        worker = self.workers.get(name)
        if worker is None:
            return error_frame("the worker has ended")
        head, max_reply = frame.header.get("head"), frame.header.get("max_reply")
        if not isinstance(head, dict) or type(max_reply) is not int or max_reply < 0:
            raise EvaluationError("the evaluator made a call without head or max_reply")
        try:
            worker.pipe.send(Frame(head, frame.payload), timeout_s=min(self.patience.send_s, self._left()))
        except FrameError as error:
            return self._give_up(name, error)
        return self._receive(name, worker, self.patience.call_s, min(max_reply, MAX_REPLY))

    def _receive(self, name: str, worker: Worker, timeout_s: float, max_payload: int) -> Frame:
        try:
            reply = worker.pipe.receive(timeout_s=min(timeout_s, self._left()), max_payload=max_payload)
        except FrameError as error:
            return self._give_up(name, error)
        if reply.op == "error":
            self.blame = self.blame or FailureClass.CONTRACT
        return reply

    def _give_up(self, name: str, error: FrameError) -> Frame:
        """A worker that broke the rules of the pipe is ended; the evaluator hears why."""
        kind = FailureClass.SHAPE if isinstance(error, WrongShape) else FailureClass.CONTRACT
        self.blame = self.blame or kind
        self._stop(name)
        return error_frame(f"the worker {error}")

    def _stop(self, name: str) -> None:
        worker = self.workers.pop(name, None)
        if worker:
            self.cpu_s += worker.process.cpu_s()
            worker.process.kill()
            worker.sandbox.close()

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise EvaluationError("the evaluation took too long")
        return left


def evaluate(
    bench: Bench,
    tree: str,
    checkpoint: Path,
    folder: Path,
    *,
    split: Split,
    patience: Patience = Patience(),
    cancel: threading.Event | None = None,
) -> Measurement:
    """Score one checkpoint with the environment's evaluator.

    Args:
        bench: where.
        tree: the candidate's code.
        checkpoint: folder with the files that its training left.
        folder: new, host side; the caller removes it.
        split: which text; "smoke" is training text.
        patience: how long a worker may take.
        cancel: ends it when set.

    Raises:
        EvaluationError: the evaluator itself failed.
        Interrupted: it was cancelled.
        SandboxError: a sandbox failed.
    """
    folder.mkdir(parents=True)
    audit_seed = secrets.randbits(32)
    wall_s = max(MIN_WALL_S, bench.preset.wall_s)
    relay = Relay(bench, tree, checkpoint, folder, time.monotonic() + wall_s, cancel, patience)
    request = {"split": split, "seed": audit_seed, "rows": None, "settings": bench.preset.settings}
    with ExitStack() as stack:
        stack.callback(relay.close)
        process = start_evaluator(bench, stack, folder, split, request, wall_s)
        try:
            result = converse(FramePipe(process, cancel), relay)
        except FrameError as error:
            raise EvaluationError(f"the evaluator {error}: {tail_of(folder / 'evaluator.log')}") from error
    value, metrics, checks = parse_result(result)
    failure = failure_of(value, checks, relay)
    return Measurement(value, metrics, checks, failure, audit_seed, relay.cpu_s)


def start_evaluator(
    bench: Bench, stack: ExitStack, folder: Path, split: Split, request: dict[str, Any], wall_s: float
) -> Process:
    """The evaluator in a sandbox of its own: its program and the split's text, nothing of the candidate."""
    empty = folder / "evaluator"
    empty.mkdir()
    programs = [Bind(bench.env.folder / name, f"{EVALUATOR}/{name}") for name in bench.env.file.evaluate]
    binds = (*programs, Bind(bench.data.split(split), VALIDATION))
    spec = bench.sandbox_spec(empty, binds=binds, writable=False, name="evaluator")
    sandbox = stack.enter_context(open_sandbox(bench.backend, spec))
    argv = [bench.python, "-P", sandbox.path_of(programs[0].target), json.dumps(request)]
    environment = {"XAR_VAL": sandbox.path_of(VALIDATION)}
    process = sandbox.spawn(argv, env=environment, timeout_s=wall_s, stderr_path=folder / "evaluator.log")
    stack.callback(process.kill)
    return process


def converse(evaluator: FramePipe, relay: Relay) -> dict[str, Any]:
    """Answer the evaluator until it has a result.

    Raises:
        FrameError: it does not speak in frames.
        EvaluationError: it is late, or talks without end.
    """
    for _ in range(MAX_FRAMES):
        left = relay.deadline - time.monotonic()
        frame = evaluator.receive(timeout_s=max(left, 0.0), max_payload=MAX_EVALUATOR_PAYLOAD)
        if frame.op == "result":
            return frame.header
        evaluator.send(relay.answer(frame), timeout_s=relay.patience.send_s)
    raise EvaluationError("the evaluator asked without end")


def parse_result(result: dict[str, Any]) -> tuple[float | None, dict[str, float], tuple[Check, ...]]:
    """Value, further figures and checks of a result frame.

    Raises:
        EvaluationError: it is not as the contract says.
    """
    try:
        value = finite(result["metric"])
        found = {str(name): finite(figure) for name, figure in result["metrics"].items()}
        metrics = {name: figure for name, figure in found.items() if figure is not None}
        checks = tuple(
            Check(str(c["name"]), bool(c["passed"]), str(c.get("reason") or "")[:MAX_MESSAGE], finite(c.get("figure")))
            for c in result["checks"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(f"the evaluator's result is malformed: {error!r}") from error
    if not checks:
        raise EvaluationError("the evaluator made no checks")
    return value, metrics, checks


def finite(value: Any) -> float | None:
    """A number as float; None for null and for what is not finite."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def failure_of(value: float | None, checks: tuple[Check, ...], relay: Relay) -> Failure | None:
    """Why the result is not valid, with the candidate's own line where a worker raised."""
    failed = [check for check in checks if not check.passed]
    if not failed and value is not None:
        return None
    reason = "; ".join(f"{c.name}: {c.reason}" for c in failed) or "the evaluator found no value"
    kind = FailureClass.INVALID
    log, frame = "", None
    if relay.blame:
        kind = relay.blame
        log = tail_of(relay.stderr_path(relay.n_started))
        frame = last_frame(log, relay.bench.inside(relay.folder / f"worker-{relay.n_started}"))
    elif any(c.name == "shape" for c in failed):
        kind = FailureClass.SHAPE
    elif any(c.name == "finite" for c in failed):
        kind = FailureClass.NAN
    return Failure(kind, reason[:MAX_MESSAGE], frame.file if frame else None, frame.line if frame else None, log)


def tail_of(path: Path) -> str:
    """The end of a log, for a person; empty when there is none."""
    try:
        return log_tail(path.read_text(errors="replace")).strip()
    except OSError:
        return ""
