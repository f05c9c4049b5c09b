"""Reading and writing the tables of a run's database. One process writes; its threads take turns."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xar_agent.envs.spec import Baseline
from xar_agent.errors import UnknownName
from xar_agent.jobs.records import Finding, IdeaRecord, ImplementationRecord, Spend, dump, load
from xar_agent.jobs.types import ENDED, Evaluation, Failure, Fidelity, Job, JobSpec, JobState
from xar_agent.store import plain_text, store_errors, to_json

JOB_COLUMNS = "id, key, spec, state, attempt, failure"


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a run holds."""

    ideas: int
    jobs: Mapping[str, int]
    valid: int
    """Evaluations; those on the hidden split are confirm's and do not count."""


class Tables:
    """The rows of one run. A job's state and its evaluation change in one transaction."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._turn = threading.RLock()

    def close(self) -> None:
        """Close the database. Calling twice is fine."""
        with self._turn:
            self._connection.close()

    # Ideas and what was made of them

    def add_idea(self, idea: IdeaRecord) -> None:
        """Record an idea; one that is on record stays as it is."""
        with self._writing() as db:
            text, parents = plain_text(idea.text), to_json(idea.parents)
            row = (idea.id, text, idea.env, parents, idea.origin, idea.epoch, time.time())
            db.execute("INSERT OR IGNORE INTO ideas VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def ideas(self) -> tuple[IdeaRecord, ...]:
        """All ideas, oldest first."""
        rows = self._read("SELECT * FROM ideas ORDER BY created_at, rowid")
        return tuple(
            IdeaRecord(r["id"], r["text"], r["env"], load(tuple[str, ...], r["parents"]), r["origin"], r["epoch"])
            for r in rows
        )

    def add_implementation(self, record: ImplementationRecord, spend: Spend | None = None) -> None:
        """Record what an episode made of an idea, and its bill; a later episode of the same idea follows it."""
        with self._writing() as db:
            sql = "INSERT INTO implementations (idea_id, record, created_at) VALUES (?, ?, ?)"
            db.execute(sql, (record.idea_id, dump(record), time.time()))
            if spend is not None:
                insert_spend(db, spend)

    def implementations(self, idea_id: str | None = None) -> tuple[ImplementationRecord, ...]:
        """Of one idea or of all, oldest first."""
        sql = "SELECT record FROM implementations WHERE ?1 IS NULL OR idea_id = ?1 ORDER BY number"
        return tuple(load(ImplementationRecord, row["record"]) for row in self._read(sql, idea_id))

    def record_finding(self, idea_id: str, fidelity: Fidelity, baseline: Baseline | None) -> None:
        """Record what an idea's verdict rests on besides its evaluations; the latest counts."""
        text = baseline.model_dump_json() if baseline else None
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO findings VALUES (?, ?, ?, ?)", (idea_id, fidelity, text, time.time()))

    def finding(self, idea_id: str) -> Finding | None:
        """What was found about an idea."""
        for row in self._read("SELECT fidelity, baseline FROM findings WHERE idea_id = ?", idea_id):
            baseline = Baseline.model_validate_json(row["baseline"]) if row["baseline"] else None
            return Finding(idea_id, row["fidelity"], baseline)
        return None

    # Jobs and their results

    def add_job(self, job: Job, cache_key: str) -> None:
        """Record a job that is wanted.

        Raises:
            StoreError: a job of this id or key is on record.
        """
        now = time.time()
        with self._writing() as db:
            row = (job.id, job.key, job.spec.idea_id, cache_key, dump(job.spec), job.state, job.attempt, None, now, now)
            db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def jobs(self, idea_id: str | None = None) -> tuple[Job, ...]:
        """Of one idea or of all, oldest first."""
        sql = f"SELECT {JOB_COLUMNS} FROM jobs WHERE ?1 IS NULL OR idea_id = ?1 ORDER BY created_at, rowid"
        return tuple(self._job(row) for row in self._read(sql, idea_id))

    def job(self, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownName: there is none of that id.
        """
        for row in self._read(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", job_id):
            return self._job(row)
        raise UnknownName(f"no job {job_id!r} in this run")

    def job_by_key(self, key: str) -> Job | None:
        """The job that was recorded for the same wish."""
        for row in self._read(f"SELECT {JOB_COLUMNS} FROM jobs WHERE key = ?", key):
            return self._job(row)
        return None

    def set_state(self, job_id: str, state: JobState, failure: Failure | None = None) -> None:
        """Move a job on."""
        with self._writing() as db:
            self._move(db, job_id, state, failure)

    def begin_cancel(self, job_id: str) -> bool:
        """Say that a job is being cancelled; False when it has ended meanwhile, and stays as it is."""
        with self._writing() as db:
            marks = ", ".join("?" * len(ENDED))
            sql = f"UPDATE jobs SET state = ?, updated_at = ? WHERE id = ? AND state NOT IN ({marks})"
            return db.execute(sql, (JobState.CANCELLING, time.time(), job_id, *ENDED)).rowcount == 1

    def start_attempt(self, job_id: str) -> int:
        """Queue an ended job once more; the number of the new attempt."""
        with self._writing() as db:
            sql = "UPDATE jobs SET attempt = attempt + 1, state = ?, failure = NULL, updated_at = ? WHERE id = ?"
            db.execute(sql, (JobState.QUEUED, time.time(), job_id))
        return self.job(job_id).attempt

    def record_evaluation(
        self,
        job_id: str,
        attempt: int,
        evaluation: Evaluation,
        cache_key: str,
        failure: Failure | None = None,
        *,
        spend: Spend | None = None,
    ) -> bool:
        """Record a result with what it cost, and end its job as succeeded, in one step.

        Returns:
            Whether it counts: the late result of a superseded attempt is kept, but changes nothing.
        """
        with self._writing() as db:
            (current,) = db.execute("SELECT attempt FROM jobs WHERE id = ?", (job_id,)).fetchone()
            counts = bool(current == attempt)
            row = (job_id, attempt, int(counts), cache_key, dump(evaluation), time.time())
            db.execute("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?, ?)", row)
            if spend is not None:
                insert_spend(db, spend)
            if counts:
                self._move(db, job_id, JobState.SUCCEEDED, failure)
        return counts

    def cached_evaluation(self, cache_key: str) -> Evaluation | None:
        """A counted result of the very same tree, versions, data and seed."""
        sql = "SELECT record FROM evaluations WHERE cache_key = ? AND counted = 1 ORDER BY created_at LIMIT 1"
        for row in self._read(sql, cache_key):
            return load(Evaluation, row["record"])
        return None

    def result_times(self) -> Mapping[str, float]:
        """When the latest record of each idea was made, in seconds since 1970; the hidden split's jobs do not count."""
        sql = """
            SELECT idea_id, max(at) AS at FROM (
                SELECT idea_id, created_at AS at FROM implementations
                UNION ALL SELECT idea_id, updated_at FROM jobs WHERE json_extract(spec, '$.split') = 'val'
            ) GROUP BY idea_id
        """
        return {row["idea_id"]: row["at"] for row in self._read(sql)}

    def add_spend(self, spend: Spend) -> None:
        """Record what something cost."""
        with self._writing() as db:
            insert_spend(db, spend)

    def spend(self, idea_id: str | None = None) -> tuple[Spend, ...]:
        """Of one idea or of all, oldest first."""
        columns = [field.name for field in dataclasses.fields(Spend)]
        sql = f"SELECT {', '.join(columns)} FROM spend WHERE ?1 IS NULL OR idea_id = ?1 ORDER BY number"
        return tuple(Spend(*row) for row in self._read(sql, idea_id))

    def counts(self) -> Counts:
        """How many ideas, jobs by state and valid evaluations."""
        (ideas,) = self._read("SELECT count(*) FROM ideas")[0]
        jobs = {row[0]: row[1] for row in self._read("SELECT state, count(*) FROM jobs GROUP BY state")}
        sql = """
            SELECT count(*) FROM evaluations JOIN jobs ON jobs.id = evaluations.job_id
            WHERE counted = 1 AND json_extract(record, '$.valid') AND json_extract(spec, '$.split') = 'val'
        """
        (valid,) = self._read(sql)[0]
        return Counts(ideas, jobs, valid)

    def _job(self, row: sqlite3.Row) -> Job:
        sql = "SELECT record FROM evaluations WHERE job_id = ? AND counted = 1 AND attempt = ?"
        found = self._read(sql, row["id"], row["attempt"])
        return Job(
            id=row["id"],
            key=row["key"],
            spec=load(JobSpec, row["spec"]),
            state=JobState(row["state"]),
            attempt=row["attempt"],
            failure=load(Failure, row["failure"]) if row["failure"] else None,
            evaluation=load(Evaluation, found[0]["record"]) if found else None,
        )

    def _move(self, db: sqlite3.Connection, job_id: str, state: JobState, failure: Failure | None) -> None:
        text = dump(failure) if failure else None
        db.execute(
            "UPDATE jobs SET state = ?, failure = ?, updated_at = ? WHERE id = ?", (state, text, time.time(), job_id)
        )

    def _read(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        with self._turn, store_errors(self._path, "read"):
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is recorded, or nothing."""
        with self._turn, store_errors(self._path, "write"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def insert_spend(db: sqlite3.Connection, spend: Spend) -> None:
    """Add the row, within a transaction."""
    columns = [field.name for field in dataclasses.fields(spend)]
    values = [getattr(spend, name) for name in columns]
    row = [plain_text(value) if isinstance(value, str) else value for value in values]
    marks = ", ".join("?" * (len(columns) + 1))
    db.execute(f"INSERT INTO spend ({', '.join(columns)}, created_at) VALUES ({marks})", (*row, time.time()))
