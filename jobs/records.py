"""What a run's database holds: its schema, its rows as frozen values, and values as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from xar_agent.envs.spec import Baseline
from xar_agent.errors import StoreError
from xar_agent.jobs.types import Fidelity, SmokeReport
from xar_agent.store import to_json

T = TypeVar("T")

SCHEMA = (
    """
    CREATE TABLE ideas (
        id TEXT PRIMARY KEY, text TEXT NOT NULL, env TEXT NOT NULL, parents TEXT NOT NULL, origin TEXT NOT NULL,
        epoch INTEGER NOT NULL, created_at REAL NOT NULL
    );
    CREATE TABLE implementations (
        number INTEGER PRIMARY KEY, idea_id TEXT NOT NULL, record TEXT NOT NULL, created_at REAL NOT NULL
    );
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, idea_id TEXT NOT NULL, cache_key TEXT NOT NULL,
        spec TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL, failure TEXT,
        created_at REAL NOT NULL, updated_at REAL NOT NULL
    );
    CREATE INDEX jobs_by_idea ON jobs (idea_id);
    CREATE TABLE evaluations (
        job_id TEXT NOT NULL REFERENCES jobs (id), attempt INTEGER NOT NULL, counted INTEGER NOT NULL,
        cache_key TEXT NOT NULL, record TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (job_id, attempt)
    );
    CREATE INDEX evaluations_by_cache_key ON evaluations (cache_key);
    CREATE TABLE spend (
        number INTEGER PRIMARY KEY, idea_id TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
        input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL,
        cpu_s REAL NOT NULL, wall_s REAL NOT NULL, created_at REAL NOT NULL
    );
    CREATE TABLE findings (idea_id TEXT PRIMARY KEY, fidelity TEXT NOT NULL, baseline TEXT, created_at REAL NOT NULL)
    """,
)


@dataclass(frozen=True, slots=True)
class IdeaRecord:
    """An idea as it was recorded."""

    id: str
    text: str
    env: str
    parents: tuple[str, ...] = ()
    origin: str = "user"
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class ImplementationRecord:
    """What one episode made of an idea; paths are relative to the run's folder."""

    idea_id: str
    outcome: str
    exit_reason: str
    tree: str
    patch_path: str
    patch_sha256: str
    trajectory_path: str
    smoke: SmokeReport | None
    steps: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """None when the price is unknown."""
    model: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Spend:
    """What something cost."""

    idea_id: str
    kind: str
    """"model", "smoke", "train" or "evaluate"."""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    """None when the price is unknown."""
    cpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What scoring an idea needs besides its evaluations."""

    idea_id: str
    fidelity: Fidelity
    baseline: Baseline | None
    """What it was compared with: a later calibration does not change an old verdict."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run for a list. Times are seconds since 1970."""

    name: str
    dir: Path
    created_at: float
    env: str
    preset: str
    model: str
    ideas: int
    jobs: Mapping[str, int]
    """How many by state."""
    valid: int
    """Valid evaluations."""
    active: bool
    """A driver is at work on it now."""


ADAPTERS: dict[object, TypeAdapter[Any]] = {}
"""Readers of the dataclasses, made once each: making one takes a millisecond."""


def dump(value: Any) -> str:
    """A dataclass as JSON text."""
    return to_json(dataclasses.asdict(value))


def load(cls: type[T], text: str) -> T:
    """The dataclass that ``dump`` wrote.

    Raises:
        StoreError: the text is damaged or from another release.
    """
    try:
        if cls not in ADAPTERS:
            ADAPTERS[cls] = TypeAdapter(cls)
        found: T = ADAPTERS[cls].validate_json(text)
    except ValidationError as error:
        raise StoreError(f"a recorded {cls.__name__} cannot be read: {error.errors()[0]['msg']}") from error
    return found
