"""The embedded engine: jobs in threads of the driver, each in its own sandbox, every state on record.

The run's database is the only truth. A job that has ended well is never run again; one that was lost, cancelled or
failed for reasons of the house gets a new attempt when it is submitted again.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xar_agent.errors import Interrupted
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.records import Spend
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, Job, JobSpec, JobState
from xar_agent.jobs.worker import JobEvent, JobOutcome, kept_result, run_job
from xar_agent.store import store_errors, to_json, write_json

MAX_ATTEMPTS = 2
"""Within one submission, when the house is to blame."""
REQUEST_S = 0.5
"""How often other processes' requests are looked for."""


class LocalEngine:
    """Runs jobs on this machine; use it as a context manager: leaving it ends what still runs.

    Args:
        store: the run, open for writing.
        bench: what to measure with.
        parallel: jobs at a time.
    """

    def __init__(self, store: RunStore, bench: Bench, *, parallel: int = 1) -> None:
        self._store = store
        self._bench = bench
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._cancels: dict[str, threading.Event] = {}
        """By job; present while the job is queued or running here."""
        self._busy_keys: set[str] = set()
        """Cache keys of the jobs that run now: a job with the same key waits for that result."""
        self._listeners: dict[str, Callable[[JobEvent], None]] = {}
        self._errors: dict[str, BaseException] = {}
        """By job, until somebody who waits for it has heard."""
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"job-{i}", daemon=True) for i in range(parallel)]
        self._threads.append(threading.Thread(target=self._take_requests, name="job-requests", daemon=True))
        for thread in self._threads:
            thread.start()

    def submit(self, spec: JobSpec) -> Job:
        """Put a job on record and into the queue. The same wish twice is one job.

        Raises:
            StoreError: it cannot be recorded.
        """
        key = idempotency_key(spec, self._bench)
        with self._changed:
            job = self._store.job_by_key(key)
            if job is None:
                job = Job(key[:12], key, spec, JobState.QUEUED, 1, None, None)
                self._store.add_job(job, cache_key(spec, self._bench))
                write_json(self._store.job_dir(job.id) / "spec.json", spec_record(spec))
            elif job.id in self._cancels or not may_run_again(job):
                return job
            elif job.state is not JobState.QUEUED or (self._store.job_dir(job.id) / start_name(job.attempt)).exists():
                if kept := kept_result(self._store.job_dir(job.id), job.attempt):  # its driver was killed just then
                    self._finish(job, kept)
                    return self._store.job(job.id)
                self._store.start_attempt(job.id)
                job = self._store.job(job.id)
            self._cancels[job.id] = threading.Event()
            self._errors.pop(job.id, None)
        self._queue.put(job.id)
        return job

    def wait(self, job_ids: Sequence[str], on_event: Callable[[JobEvent], None] | None = None) -> list[Job]:
        """Wait until these jobs have ended; their records, in order.

        Args:
            job_ids: as ``submit`` gave them.
            on_event: hears how they go; called from the engine's threads.

        Raises:
            StoreError: results could not be recorded. So does whatever else nobody foresaw in one of these jobs.
        """
        with self._changed:
            if on_event:
                self._listeners.update(dict.fromkeys(job_ids, on_event))
            while self._errors.keys().isdisjoint(job_ids) and any(job_id in self._cancels for job_id in job_ids):
                self._changed.wait(0.2)  # with a time-out, so that Ctrl-C is taken at once
            for job_id in job_ids:
                if error := self._errors.pop(job_id, None):
                    raise error
        return [self._store.job(job_id) for job_id in job_ids]

    def cancel(self, job_id: str) -> None:
        """End a queued or running job; its record says so when it has. One that has ended stays as it is."""
        with self._changed:
            event = self._cancels.get(job_id)
            if event is not None and not event.is_set():
                event.set()
                self._store.begin_cancel(job_id)

    def close(self) -> None:
        """Cancel what still runs, wait until it has ended and is recorded. Calling twice is fine."""
        self._closing.set()
        for job_id in list(self._cancels):
            self.cancel(job_id)
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _work(self) -> None:
        while (job_id := self._queue.get()) is not None:
            try:
                self._run(self._store.job(job_id), self._cancels[job_id])
            except BaseException as error:  # such as records that cannot be written: whoever waits must hear it
                with self._changed:
                    self._errors[job_id] = error
            finally:
                with self._changed:
                    del self._cancels[job_id]
                    self._changed.notify_all()

    def _run(self, job: Job, cancel: threading.Event) -> None:
        """The known result of the very same training, else attempts until one ends for reasons of its own."""
        key = cache_key(job.spec, self._bench)
        with self._alone_with(key, cancel):
            known = self._store.cached_evaluation(key)
            if known is not None and not cancel.is_set():
                self._finish(job, reused(known))
            else:
                self._try(job, cancel)

    @contextmanager
    def _alone_with(self, key: str, cancel: threading.Event) -> Iterator[None]:
        """Wait while another thread trains the same thing; a cancelled job does not wait."""
        with self._changed:
            while key in self._busy_keys and not cancel.is_set():
                self._changed.wait(0.2)  # with a time-out, so that a cancellation is seen
            first = key not in self._busy_keys
            self._busy_keys.add(key)
        try:
            yield
        finally:
            with self._changed:
                if first:
                    self._busy_keys.discard(key)
                self._changed.notify_all()

    def _try(self, job: Job, cancel: threading.Event) -> None:
        """Attempts, within the limit."""
        for tries_left in reversed(range(MAX_ATTEMPTS)):
            outcome = self._attempt(job, cancel)
            if outcome.state is not JobState.LOST or not tries_left:
                self._finish(job, outcome)
                return
            self._store.set_state(job.id, outcome.state, outcome.failure)
            self._store.start_attempt(job.id)
            job = self._store.job(job.id)

    def _attempt(self, job: Job, cancel: threading.Event) -> JobOutcome:
        """One attempt. A job that waits for a device is queued still: if we are killed then, no attempt is lost."""
        try:
            with self._bench.leased(cancel) as bench:
                if not cancel.is_set():
                    return self._attempt_on(bench, job, cancel)
        except Interrupted:
            pass
        return JobOutcome(JobState.CANCELLED, Failure(FailureClass.INFRA, "cancelled before it began"), None)

    def _attempt_on(self, bench: Bench, job: Job, cancel: threading.Event) -> JobOutcome:
        self._store.set_state(job.id, JobState.STARTING)
        job_dir = self._store.job_dir(job.id)
        claim(job_dir, job.attempt)
        self._store.set_state(job.id, JobState.RUNNING)
        outcome = run_job(
            bench,
            job.spec,
            job_dir,
            attempt=job.attempt,
            on_event=lambda event: self._tell(job.id, event),
            cancel=cancel,
        )
        if outcome.evaluation is None and (used := spend_of(job, outcome)):
            self._store.add_spend(used)
        return outcome

    def _finish(self, job: Job, outcome: JobOutcome) -> None:
        """Record how it ended; an evaluation, what it cost and the job's end in one transaction."""
        evaluation = outcome.evaluation
        if evaluation is None:
            self._store.set_state(job.id, outcome.state, outcome.failure)
            return
        key = cache_key(job.spec, self._bench)
        used = spend_of(job, outcome)
        self._store.record_evaluation(job.id, job.attempt, evaluation, key, outcome.failure, spend=used)

    def _tell(self, job_id: str, event: JobEvent) -> None:
        listener = self._listeners.get(job_id)
        if listener:
            listener(event)

    def _take_requests(self) -> None:
        while not self._closing.wait(REQUEST_S):
            for job_id in self._store.take_requests():
                self.cancel(job_id)


def idempotency_key(spec: JobSpec, bench: Bench) -> str:
    """sha256 over everything that makes it this job and no other."""
    parts = [spec.run, spec.idea_id, spec.split, *cache_parts(spec, bench), bench.env.file.train, bench.preset.gpus]
    return hashlib.sha256(to_json(parts).encode()).hexdigest()


def cache_key(spec: JobSpec, bench: Bench) -> str:
    """sha256 over everything that decides the result."""
    return hashlib.sha256(to_json([spec.split, *cache_parts(spec, bench)]).encode()).hexdigest()


def cache_parts(spec: JobSpec, bench: Bench) -> list[object]:
    """(tree, env version, evaluator version, preset, seed, data hash)."""
    env = bench.env
    return [spec.tree, env.version, env.evaluator_version, bench.preset_name, spec.seed, bench.data.sha256]


def spec_record(spec: JobSpec) -> dict[str, object]:
    """A job's spec for spec.json; the diff lies beside it in readable form already, so its digest is enough."""
    return {
        "run": spec.run,
        "idea_id": spec.idea_id,
        "env": spec.env,
        "preset": spec.preset,
        "seed": spec.seed,
        "split": spec.split,
        "tree": spec.tree,
        "patch_sha256": spec.patch.sha256,
        "files": list(spec.patch.files),
    }


def may_run_again(job: Job) -> bool:
    """Whether asking for an ended job once more makes sense: nobody's idea was to blame."""
    if not job.state.ended:
        return True
    return job.state is not JobState.SUCCEEDED and job.failure is not None and job.failure.kind is FailureClass.INFRA


def start_name(attempt: int) -> str:
    """Name of the file that an attempt begins with."""
    return f"start-{attempt}"


def claim(job_dir: Path, attempt: int) -> None:
    """Begin an attempt: it can be begun once only.

    Raises:
        StoreError: it was begun before, or the folder cannot be written.
    """
    path = job_dir / start_name(attempt)
    with store_errors(path, "begin the attempt of"):
        job_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(descriptor, f"{os.getpid()}\n".encode())
        finally:
            os.close(descriptor)


def spend_of(job: Job, outcome: JobOutcome) -> Spend | None:
    """What an attempt's training cost; None when nothing was trained."""
    if not outcome.train_wall_s:
        return None
    return Spend(job.spec.idea_id, "train", cpu_s=outcome.train_cpu_s, wall_s=outcome.train_wall_s)


def reused(evaluation: Evaluation) -> JobOutcome:
    """The outcome of a job whose very result is on record already."""
    failure = None if evaluation.valid else Failure(FailureClass.INVALID, "; ".join(evaluation.reasons) or "no value")
    return JobOutcome(JobState.SUCCEEDED, failure, evaluation)
