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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xar_agent.errors import EvaluationError
from xar_agent.jobs.bench import EVALUATOR, VALIDATION, Bench
from xar_agent.jobs.classify import last_frame, log_tail
from xar_agent.jobs.frames import FrameError, FramePipe
from xar_agent.jobs.full_disk import blame_full_disk, blame_stopped
from xar_agent.jobs.relay import Patience, Relay, limit_of, patience_of
from xar_agent.jobs.training import Training
from xar_agent.jobs.types import Check, Failure, FailureClass
from xar_agent.sandbox import open_sandbox
from xar_agent.sandbox.protocol import Bind, Process

Split = Literal["val", "hidden", "smoke"]
MAX_EVALUATOR_PAYLOAD = 64 << 20
MAX_FRAMES = 100_000
MAX_MESSAGE = 2000
GRACE_S = 120.0
"""For the evaluator's own work, beyond what the workers may take."""


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
    """CPU seconds of the costliest worker."""
    worker_wall_s: float = 0.0
    """The longest that the host waited for one worker: loading and answering."""

    @property
    def valid(self) -> bool:
        """There is a value and every check passed."""
        return self.failure is None


def evaluate(
    bench: Bench,
    tree: str,
    checkpoint: Path,
    folder: Path,
    *,
    split: Split,
    training: Training | None = None,
    patience: Patience | None = None,
    cancel: threading.Event | None = None,
) -> Measurement:
    """Score one checkpoint with the environment's evaluator.

    Args:
        bench: where.
        tree: the candidate's code.
        checkpoint: folder with the files that its training left.
        folder: new, host side; the caller removes it.
        split: which text; "smoke" is training text.
        training: the run that it scores, for metrics of what training took; None for a smoke test.
        patience: how long a worker may take; None: what the preset allows.
        cancel: ends it.

    Raises:
        EvaluationError: the evaluator itself failed.
        Interrupted: it was cancelled.
        SandboxError: a sandbox failed.
        StoreError: the disk is full.
    """
    folder.mkdir(parents=True)
    audit_seed = secrets.randbits(32)
    patience = patience or patience_of(bench.preset)
    wall_s = patience.total_s + GRACE_S
    relay = Relay(bench, tree, checkpoint, folder, patience, cancel)
    request = request_of(bench, split, audit_seed, training)
    with ExitStack() as stack:
        stack.callback(relay.close)
        process = start_evaluator(bench, stack, folder, split, request, wall_s)
        try:
            result = converse(FramePipe(process, cancel), relay, time.monotonic() + wall_s)
        except FrameError as error:
            blame_full_disk(folder, "the evaluation")
            if limit_of(process):
                blame_stopped(folder, "the evaluation", process.wait())
            raise EvaluationError(f"the evaluator {error}: {tail_of(folder / 'evaluator.log')}") from error
    value, metrics, checks = parse_result(result)
    return Measurement(value, metrics, checks, failure_of(value, checks, relay), audit_seed, relay.cpu_s, relay.busy_s)


def request_of(bench: Bench, split: Split, audit_seed: int, training: Training | None) -> dict[str, Any]:
    """What the evaluator is asked. What training took is the host's own count."""
    took = {"tokens": training.tokens if training else None, "seconds": training.trained_s if training else None}
    settings = bench.preset.settings
    return {"split": split, "seed": audit_seed, "rows": None, "settings": settings, "training": took}


def start_evaluator(
    bench: Bench, stack: ExitStack, folder: Path, split: Split, request: dict[str, Any], wall_s: float
) -> Process:
    """The evaluator in a sandbox of its own: its program and the split's text, nothing of the candidate."""
    empty = folder / "evaluator"
    empty.mkdir()
    empty.chmod(0o755)  # whatever the umask: the program inside is another user
    programs = [Bind(bench.env.folder / name, f"{EVALUATOR}/{name}") for name in bench.env.file.evaluate]
    binds = (*programs, Bind(bench.data.split(split), VALIDATION))
    spec = bench.sandbox_spec(empty, binds=binds, writable=False, name="evaluator")
    sandbox = stack.enter_context(open_sandbox(bench.backend, spec))
    argv = [bench.python, "-P", sandbox.path_of(programs[0].target), json.dumps(request)]
    environment = {"XAR_VAL": sandbox.path_of(VALIDATION)}
    process = sandbox.spawn(argv, env=environment, timeout_s=wall_s, stderr_path=folder / "evaluator.log")
    stack.callback(process.kill)
    return process


def converse(evaluator: FramePipe, relay: Relay, deadline: float) -> dict[str, Any]:
    """Answer the evaluator until it has a result.

    Raises:
        FrameError: it does not speak in frames.
        EvaluationError: it is late, or talks without end.
    """
    for _ in range(MAX_FRAMES):
        left_s = deadline - time.monotonic()
        frame = evaluator.receive(timeout_s=left_s, max_payload=MAX_EVALUATOR_PAYLOAD)
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
