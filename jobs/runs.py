"""A run on disk: its folder, its settings, and the one process that may write its database."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xar_agent
from xar_agent import prompts
from xar_agent.errors import StoreError, UnknownName, UserError
from xar_agent.jobs.lock import LOCK, is_active, take_lock
from xar_agent.jobs.records import SCHEMA, RunSummary
from xar_agent.jobs.tables import Tables
from xar_agent.jobs.types import Failure, FailureClass, JobState
from xar_agent.redact import redact_json
from xar_agent.store import open_database, store_errors, write_atomic, write_json

RUN_FILE = "run.json"
DATABASE = "xar.db"
REQUESTS = "requests"
LEFTOVERS = frozenset({LOCK, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", REQUESTS})
"""What a run that was cut off while it was being made may have left, besides half-written files of such names."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunStore(Tables):
    """One run. The writing form holds the run's lock; any number of readers may look on.

    Use it as a context manager, or close it.
    """

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, lock: int | None, *, made_folder: bool = False
    ) -> None:
        super().__init__(connection, folder / DATABASE)
        self.dir = folder
        self.name = folder.name
        self.made_folder = made_folder
        """The folder was not there before: whoever made it may remove it again."""
        self._lock = lock

    @classmethod
    def create(cls, runs_dir: Path, name: str | None, settings: Mapping[str, Any]) -> RunStore:
        """Make a new run and open it for writing.

        Args:
            runs_dir: folder of all runs; made when missing.
            name: None gives it one from the date.
            settings: recorded in run.json with versions, prompt digests and the git commit; secrets are masked.

        Raises:
            UserError: the name is taken, not fit for a folder, or that of a folder with other things in it.
            StoreError: it cannot be written; nothing is left behind.
        """
        name = name or time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        if not NAME.fullmatch(name):
            raise UserError(f"{name!r} is not a name for a run", "use letters, digits, dot, dash and underscore")
        folder = Path(runs_dir).absolute() / name
        if (folder / RUN_FILE).exists():
            raise UserError(f"run {name!r} exists already in {runs_dir}", "choose another --run, or resume that one")
        made = make_folder(folder)
        try:
            lock = take_lock(folder)
            try:
                connection = open_database(folder / DATABASE, SCHEMA)
                write_json(folder / RUN_FILE, run_record(settings))
            except BaseException:
                os.close(lock)
                raise
        except StoreError:
            if made:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(folder, connection, lock, made_folder=made)

    @classmethod
    def open(cls, runs_dir: Path, name: str | None = None, *, read_only: bool = False) -> RunStore:
        """Open a run by folder, or by name under the runs folder.

        Opened for writing, jobs that were under way when the last driver ended are marked ``lost``: their processes
        ended with it. The same command then makes a new attempt.

        Raises:
            UnknownName: there is no such run.
            UserError: another driver is at work on it (not for readers).
            StoreError: its records cannot be read.
        """
        folder = find_run(runs_dir, name)
        if read_only:
            return cls(folder, open_database(folder / DATABASE, SCHEMA, read_only=True), None)
        lock = take_lock(folder)
        try:
            store = cls(folder, open_database(folder / DATABASE, SCHEMA), lock)
        except BaseException:
            os.close(lock)
            raise
        store.mark_lost()
        store.take_requests()  # they were meant for attempts that have ended
        return store

    @classmethod
    def open_or_create(cls, runs_dir: Path, name: str | None, settings: Mapping[str, Any]) -> RunStore:
        """``--run NAME``: resume the run of that name, or begin it."""
        if name and (Path(runs_dir) / name / RUN_FILE).exists():
            store = cls.open(runs_dir, name)
            try:
                store.take_settings(settings)
            except BaseException:
                store.close()
                raise
            return store
        return cls.create(runs_dir, name, settings)

    def take_settings(self, settings: Mapping[str, Any]) -> None:
        """Record with what settings the run goes on, and those that they replace.

        Raises:
            StoreError: it cannot be written.
        """
        record, now = self.record, run_record(settings)
        before = record.get("settings") or {}
        changed = {key: before.get(key) for key in now["settings"] if before.get(key) != now["settings"][key]}
        if changed:
            earlier = [*record.get("earlier_settings", []), {"until": time.time(), "settings": changed}]
            kept = {**record, "settings": now["settings"], "seeds": now["seeds"], "budget": now["budget"]}
            write_json(self.dir / RUN_FILE, {**kept, "earlier_settings": earlier})

    @property
    def record(self) -> dict[str, Any]:
        """What run.json says."""
        return read_run_file(self.dir)

    def mark_lost(self) -> None:
        """Say of each job that was under way what became of it."""
        for job in self.jobs():
            if not job.state.ended and job.state is not JobState.QUEUED:
                reason = f"the driver ended while this job was {job.state}; its processes ended with it"
                self.set_state(job.id, JobState.LOST, Failure(FailureClass.INFRA, reason))

    def job_dir(self, job_id: str) -> Path:
        """Folder of one job's files."""
        return self.dir / "jobs" / job_id

    def take_requests(self) -> tuple[str, ...]:
        """Ids of jobs that somebody asked to cancel since the last call."""
        found = sorted((self.dir / REQUESTS).glob("cancel-*"))
        for path in found:
            path.unlink(missing_ok=True)
        return tuple(path.name.removeprefix("cancel-") for path in found)

    def close(self) -> None:
        """Close the database and let the next driver in. Calling twice is fine."""
        super().close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make_folder(folder: Path) -> bool:
    """Make a run's folder; False when it was there already, empty or with leftovers of a run.

    Raises:
        UserError: something else lies there.
        StoreError: it cannot be made.
    """
    with store_errors(folder, "make"):
        try:
            folder.mkdir(parents=True)
            return True
        except FileExistsError:
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    if any(name not in LEFTOVERS and not name.startswith(f".{RUN_FILE}") for name in names):
        raise UserError(f"{folder} is there already and is no run", "choose another --run, or another --runs-dir")
    return False


def find_run(runs_dir: Path, name: str | None) -> Path:
    """The run's folder.

    Raises:
        UnknownName: there is none; the hint lists the latest.
    """
    folder = (Path(runs_dir) / name if name else Path(runs_dir)).absolute()
    if (folder / RUN_FILE).is_file() and (folder / DATABASE).is_file():
        return folder
    known = [summary.name for summary in list_runs(folder.parent)][:5]
    hint = f"runs there: {', '.join(known)}" if known else "there are no runs there; see --runs-dir"
    raise UnknownName(f"no run {folder.name!r} in {folder.parent}", hint)


def list_runs(runs_dir: Path) -> tuple[RunSummary, ...]:
    """All runs of a folder, newest first. A folder that is no run, or cannot be read, is passed over."""
    summaries = []
    for path in Path(runs_dir).glob(f"*/{RUN_FILE}"):
        with suppress(StoreError, UnknownName):
            summaries.append(summarise(path.parent.absolute()))
    return tuple(sorted(summaries, key=lambda summary: summary.created_at, reverse=True))


def summarise(folder: Path) -> RunSummary:
    """One run for a list."""
    if not (folder / DATABASE).is_file():
        raise StoreError(f"{folder} has no {DATABASE}")
    record = read_run_file(folder)
    settings = record.get("settings") or {}
    with RunStore.open(folder, read_only=True) as store:
        counts = store.counts()
    return RunSummary(
        name=folder.name,
        dir=folder,
        created_at=float(record.get("created_at") or 0),
        env=str(settings.get("env") or ""),
        preset=str(settings.get("preset") or ""),
        model=str(settings.get("model") or ""),
        ideas=counts.ideas,
        jobs=counts.jobs,
        valid=counts.valid,
        active=is_active(folder),
    )


def read_run_file(folder: Path) -> dict[str, Any]:
    """run.json as a dict.

    Raises:
        StoreError: it is missing or damaged.
    """
    path = folder / RUN_FILE
    with store_errors(path, "read"):
        text = path.read_text()
    try:
        record = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{path} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise StoreError(f"{path} does not hold a JSON object")
    return record


def run_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says: enough to know what was run, and with what."""
    masked = redact_json(dict(settings))
    assert isinstance(masked, dict)
    return {
        "created_at": time.time(),
        "settings": masked,
        "seeds": masked.get("seeds"),
        "budget": {key: value for key, value in masked.items() if key.startswith("budget_")},
        "versions": {
            "xar_agent": xar_agent.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "git_commit": git_commit(Path(__file__).resolve().parents[1]),
        "prompts": prompts.digests(),
    }


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that this program runs from; None when it was installed."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "-q", "HEAD"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() or None
    return None


def request_cancel(folder: Path, job_id: str) -> None:
    """Ask the driver of a run to cancel a job: it looks once a second. For use by another process."""
    write_atomic(folder / REQUESTS / f"cancel-{job_id}", "")
