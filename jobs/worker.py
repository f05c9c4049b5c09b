"""One job from patch to score: trained in one sandbox, scored in others, and the host writes the result."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from xar_agent.errors import EvaluationError, Interrupted, PatchRefused, SandboxError
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.charge import compute_ratio, with_compute_check, with_time_check, worker_limit_s
from xar_agent.jobs.checks import with_host_checks
from xar_agent.jobs.evaluation import Measurement, evaluate
from xar_agent.jobs.feed import Clock
from xar_agent.jobs.plausibility import Seen, flags_of
from xar_agent.jobs.probe import CpuReference, cpu_reference
from xar_agent.jobs.records import load
from xar_agent.jobs.relay import patience_of
from xar_agent.jobs.training import Training, TrainingPlan, Use, train
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, JobSpec, JobState
from xar_agent.jobs.watch import Progress
from xar_agent.store import store_errors, to_json, write_json

RESULT = "evaluation.json"
LOG = "stdout.log"
CURVE = "metrics.jsonl"
STAGES_OF_SCORING: tuple[Literal["training_done", "evaluating"], ...] = ("training_done", "evaluating")


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something happened to a running job."""

    kind: Literal["started", "metric", "training_done", "evaluating", "done"]
    job_id: str
    seed: int
    tokens: int = 0
    """Served by the host so far; 0 where the data is a folder."""
    used: float = 0.0
    """Of the budget, in units of the clock."""
    budget: int = 0
    clock: Clock = "tokens"
    loss: float | None = None
    """The candidate's own word."""
    step: int = 0
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job ended. An invalid evaluation is a result too: the job succeeded, and ``failure`` says what is wrong."""

    state: JobState
    failure: Failure | None
    evaluation: Evaluation | None
    train_cpu_s: float = 0.0
    """What this attempt's training cost, however it ended; 0 when nothing was trained."""
    train_wall_s: float = 0.0


def run_job(
    bench: Bench,
    spec: JobSpec,
    job_dir: Path,
    *,
    attempt: int = 1,
    on_event: Callable[[JobEvent], None] | None = None,
    cancel: threading.Event | None = None,
) -> JobOutcome:
    """Train and score one patch at one seed.

    Args:
        bench: what to measure with.
        spec: what to measure.
        job_dir: receives stdout.log, metrics.jsonl and, when there is a result, evaluation.json.
        attempt: goes into evaluation.json.
        on_event: hears how the job goes; called from other threads too.
        cancel: ends the job when set.

    Raises:
        StoreError: the records cannot be written.
    """
    reporter = Reporter(job_dir.name, spec.seed, on_event)
    with store_errors(job_dir, "make"):
        job_dir.mkdir(parents=True, exist_ok=True)
    use = Use()
    try:
        with store_errors(job_dir, "run the job of"), bench.scratch_folder(f"job-{job_dir.name}") as folder:
            outcome = measure(bench, spec, job_dir, folder, attempt, reporter, cancel, use)
    except Interrupted as error:
        outcome = JobOutcome(JobState.CANCELLED, Failure(FailureClass.INFRA, error.message), None)
    except PatchRefused as error:
        outcome = JobOutcome(JobState.FAILED, Failure(FailureClass.INTEGRITY, error.message), None)
    except (SandboxError, EvaluationError) as error:
        outcome = JobOutcome(JobState.LOST, Failure(FailureClass.INFRA, error.message), None)
    finally:
        reporter.say("done")
    return replace(outcome, train_cpu_s=use.cpu_s, train_wall_s=use.wall_s)


@dataclass(frozen=True, slots=True)
class Reporter:
    """Passes events on with the job's name."""

    job_id: str
    seed: int
    on_event: Callable[[JobEvent], None] | None

    def say(self, kind: Literal["started", "training_done", "evaluating", "done"], **values: Any) -> None:
        """Report a stage."""
        if self.on_event:
            self.on_event(JobEvent(kind, self.job_id, self.seed, **values))

    def progress(self, progress: Progress) -> None:
        """Report a point of the curve."""
        if self.on_event:
            self.on_event(JobEvent("metric", self.job_id, self.seed, **asdict(progress)))


def measure(
    bench: Bench,
    spec: JobSpec,
    job_dir: Path,
    folder: Path,
    attempt: int,
    reporter: Reporter,
    cancel: threading.Event | None,
    use: Use,
) -> JobOutcome:
    """The stages in order."""
    if bench.add_patch(spec.patch) != spec.tree:
        raise PatchRefused("the patch does not give the tree that was tested")
    budget = bench.preset.budget
    clock = bench.preset.clock
    reporter.say("started", budget=budget, clock=clock)
    reference = cpu_reference(bench, spec.seed, cancel=cancel)
    plan = TrainingPlan.of(bench, spec.tree, spec.seed, cpu_cap_s=reference.limit_s)
    (job_dir / CURVE).unlink(missing_ok=True)
    training = train(
        bench,
        plan,
        folder / "train",
        log_path=job_dir / LOG,
        curve_path=job_dir / CURVE,
        on_progress=reporter.progress,
        cancel=cancel,
        use=use,
    )
    if training.failure or training.checkpoint is None:
        return JobOutcome(state_of(training.failure), training.failure, None)
    used = training.trained_s if clock == "seconds" else training.tokens
    for stage in STAGES_OF_SCORING:
        reporter.say(stage, tokens=training.tokens, used=used, budget=budget, clock=clock)
    found = score_checkpoint(bench, spec, training, training.checkpoint, folder / "evaluate", reference, cancel)
    evaluation = evaluation_of(bench, spec, training, found, reference)
    write_result(job_dir, attempt, evaluation, found)
    return JobOutcome(JobState.SUCCEEDED, found.failure, evaluation)


def score_checkpoint(
    bench: Bench,
    spec: JobSpec,
    training: Training,
    checkpoint: Path,
    folder: Path,
    reference: CpuReference,
    cancel: threading.Event | None,
) -> Measurement:
    """What the evaluator finds, and what the host has to say about compute, budget, files and patch."""
    patience = replace(patience_of(bench.preset), cpu_s=worker_limit_s(reference, training.cpu_s))
    found = evaluate(
        bench,
        spec.tree,
        checkpoint,
        folder,
        split=spec.split,
        training=training,
        patience=patience,
        cancel=cancel,
    )
    if reference.counted or bench.preset.clock != "seconds":
        found = with_compute_check(found, reference, training.cpu_s)
    else:
        found = with_time_check(found, bench.preset, training)
    patch = bench.diff(spec.tree)  # as the host writes it: a diff of another's may hide what it adds
    return with_host_checks(found, bench, patch, training)


def state_of(failure: Failure | None) -> JobState:
    """The state in which a job with this failure ends."""
    by_kind = {
        FailureClass.TIMEOUT: JobState.TIMED_OUT,
        FailureClass.OOM: JobState.OOM,
        FailureClass.INFRA: JobState.LOST,
    }
    return by_kind.get(failure.kind, JobState.FAILED) if failure else JobState.FAILED


def evaluation_of(
    bench: Bench, spec: JobSpec, training: Training, found: Measurement, reference: CpuReference
) -> Evaluation:
    """Everything about the result that scoring and a reader need."""
    evaluation = Evaluation(
        metric=bench.env.metric,
        value=found.value,
        direction=bench.env.direction,
        valid=found.valid,
        reasons=tuple(f"{c.name}: {c.reason}" for c in found.checks if not c.passed),
        checks=found.checks,
        seed=spec.seed,
        compute_ratio=compute_ratio(bench.preset, reference, training, found),
        train_cpu_s=training.cpu_s,
        train_wall_s=training.wall_s,
        tokens=training.tokens,
        tree=spec.tree,
        checkpoint_sha256=training.checkpoint_sha256,
        env_version=bench.env.version,
        evaluator_version=bench.env.evaluator_version,
        data_sha256=bench.data.sha256,
        machine=bench.machine,
        worker_cpu_s=found.worker_cpu_s,
        corpus=bench.data.corpus,
    )
    baseline = baseline_for(bench.env, bench.preset_name, spec.split, bench.runtime)
    return replace(
        evaluation, flags=flags_of(evaluation, Seen(bench.preset, baseline, training.curve, training.trained_s))
    )


def write_result(job_dir: Path, attempt: int, evaluation: Evaluation, found: Measurement) -> None:
    """evaluation.json, whole or not at all: the result of this attempt.

    Raises:
        StoreError: it cannot be written.
    """
    record = {**asdict(evaluation), "attempt": attempt, "metrics": found.metrics, "audit_seed": found.audit_seed}
    failure = asdict(found.failure) if found.failure else None
    write_json(job_dir / RESULT, {**record, "failure": failure})


def kept_result(job_dir: Path, attempt: int) -> JobOutcome | None:
    """The result of this very attempt that lies in a job's folder; None when it did not get so far.

    Raises:
        StoreError: it is damaged.
    """
    path = job_dir / RESULT
    if not path.exists():
        return None
    with store_errors(path, "read"):
        text = path.read_text()
    evaluation, record = load(Evaluation, text), json.loads(text)
    if record["attempt"] != attempt:
        return None
    failure = load(Failure, to_json(record["failure"])) if record["failure"] else None
    return JobOutcome(JobState.SUCCEEDED, failure, evaluation, evaluation.train_cpu_s, evaluation.train_wall_s)
