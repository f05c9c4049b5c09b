"""Values of the jobs room: what is asked for, what was measured, and why something failed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from xar_agent.sandbox.protocol import Patch


class FailureClass(StrEnum):
    """Why a smoke test or a job has no valid result; one list for the whole product."""

    SYNTAX = "SYNTAX"
    IMPORT = "IMPORT"
    SHAPE = "SHAPE"
    OOM = "OOM"
    NAN = "NAN"
    TIMEOUT = "TIMEOUT"
    CONFIG = "CONFIG"
    CONTRACT = "CONTRACT"
    INTEGRITY = "INTEGRITY"
    CODE = "CODE"
    INVALID = "INVALID"
    INFRA = "INFRA"


class JobState(StrEnum):
    QUEUED = "queued"
    SUBMITTING = "submitting"
    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OOM = "oom"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """True when nothing more will happen to it."""
        return self in ENDED


ENDED = frozenset(
    {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.TIMED_OUT,
        JobState.OOM,
        JobState.CANCELLED,
        JobState.PREEMPTED,
        JobState.LOST,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why it failed, for a person and for the agent."""

    kind: FailureClass
    reason: str
    """One line."""
    file: str | None = None
    line: int | None = None
    """Last traceback frame inside the repository."""
    log: str = ""
    """Tail of the output, at most 8 KiB."""


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """A few steps of training, a load through the contract, one batch scored on training text."""

    patch_sha256: str
    tree: str
    """Tree hash that was tested: a submission needs the same one."""
    passed: bool
    failure: Failure | None
    loss_first: float | None
    loss_last: float | None
    """From the candidate's own curve: information, never a score."""
    duration_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Check:
    """One validity check of an evaluation."""

    name: str
    passed: bool
    reason: str = ""
    figure: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one training job measured: one seed, one number, by the trusted evaluator."""

    metric: str
    value: float | None
    """In the unit and direction of ``EnvSpec.metric``; None when a check failed before it could be computed."""
    direction: Literal["min", "max"]
    valid: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    seed: int
    compute_ratio: float
    """CPU seconds that count (jobs/charge.py) over those of the baseline on this machine, as probed before the run."""
    train_cpu_s: float
    """Of the training itself."""
    train_wall_s: float
    tokens: int
    """Training tokens that the host served."""
    tree: str
    checkpoint_sha256: str
    env_version: str
    evaluator_version: str
    data_sha256: str
    machine: str
    worker_cpu_s: float = 0.0
    """CPU seconds of the costliest worker that scored it; what is beyond the allowance is in ``compute_ratio``."""
    corpus: str = ""
    """Name of the data that it was trained and scored on; empty in records of releases that did not keep it."""
    flags: tuple[str, ...] = ()
    """What a person should look at before believing it; changes neither score nor validity (jobs/plausibility.py)."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A training run that somebody wants: everything that decides its result."""

    run: str
    idea_id: str
    env: str
    preset: str
    seed: int
    patch: Patch
    tree: str
    split: Literal["val", "hidden"] = "val"


@dataclass(frozen=True, slots=True)
class Job:
    """A training run on record."""

    id: str
    key: str
    """Idempotency key: sha256 over everything in the spec and the versions of environment and evaluator."""
    spec: JobSpec
    state: JobState
    attempt: int
    failure: Failure | None
    evaluation: Evaluation | None


Verdict = Literal["better", "within_noise", "worse", "invalid", "none"]
Fidelity = Literal["effect", "no_effect", "unknown"]


@dataclass(frozen=True, slots=True)
class Score:
    """Several seeds of one candidate against the baseline. Derived, never stored."""

    mean: float | None
    """Over the valid seeds; None when there is none."""
    lo: float | None
    hi: float | None
    """95 % prediction interval of the baseline's mean over as many seeds, moved to this score; None: no baseline."""
    n: int
    """Valid seeds."""
    baseline_mean: float | None
    """Of the baseline at the candidate's own compute ratio."""
    delta: float | None
    """mean - baseline_mean, in the metric's unit; its good sign depends on the direction."""
    verdict: Verdict
