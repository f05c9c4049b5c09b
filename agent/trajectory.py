"""The record of an episode: an append-only file of JSON lines that form a tree."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xar_agent.errors import StoreError, UserError
from xar_agent.redact import redact_json

VERSION = 1
FILE_NAME = "trajectory.jsonl"
BLOB_CHARS = 16_384
"""Longer strings go to a file of their own: a line stays readable in a terminal and cheap to skip."""
NO_SPACE_HINT = "free some disk space, or choose another folder with --runs-dir"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trajectory."""

    seq: int
    """Position in the file, from 0."""
    id: str
    parent_id: str | None
    """The event that this one follows. An abandoned step is a branch that nothing follows."""
    ts: str
    run_id: str
    type: str
    data: dict[str, Any]


class TrajectoryWriter:
    """Appends events; each line is on its way to the disk before the next is made.

    Secrets are masked here, so that nothing unmasked is ever written. One thread at a time.
    """

    def __init__(self, folder: Path, run_id: str, *, parent_id: str | None = None) -> None:
        """Open the folder's file for appending; what a crash left of a last line is cut away.

        Args:
            folder: the episode's folder.
            run_id: written on each line.
            parent_id: the event to go on from; None goes on from the file's last event.
        """
        self.path = folder / FILE_NAME
        self.blobs = folder / "blobs"
        self.run_id = run_id
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            events = read_trajectory(self.path) if self.path.exists() else []
            self._file = self.path.open("ab")
            self._file.truncate(whole_lines_length(self.path))
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}", NO_SPACE_HINT) from error
        self.seq = events[-1].seq + 1 if events else 0
        self.parent_id = parent_id or (events[-1].id if events else None)

    def append(self, kind: str, **fields: Any) -> Event:
        """Write one event and make it the parent of the next.

        Raises:
            StoreError: it cannot be written.
        """
        masked = redact_json(fields)
        assert isinstance(masked, dict)
        ts = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = Event(self.seq, f"e{self.seq}", self.parent_id, ts, self.run_id, kind, masked)
        try:
            self._write({"v": VERSION, "seq": event.seq, "id": event.id, "parent_id": event.parent_id, "ts": event.ts,
                         "run_id": event.run_id, "type": kind, "data": self._outsource(masked)})  # fmt: skip
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}", NO_SPACE_HINT) from error
        self.seq += 1
        self.parent_id = event.id
        return event

    def sync(self) -> None:
        """Wait until everything so far is on the disk; called at the end of each step."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}", NO_SPACE_HINT) from error

    def close(self) -> None:
        """Close the file. Calling twice is fine."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n")
        self._file.flush()

    def _outsource(self, value: Any) -> Any:
        """The value with each long string replaced by a reference to its blob."""
        if isinstance(value, str) and len(value) > BLOB_CHARS:
            return self._blob(value)
        if isinstance(value, dict):
            return {key: self._outsource(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._outsource(part) for part in value]
        return value

    def _blob(self, text: str) -> dict[str, Any]:
        content = text.encode("utf-8", "replace")
        digest = hashlib.sha256(content).hexdigest()
        path = self.blobs / digest
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(path)
        return {"$blob": digest, "bytes": len(content)}


def whole_lines_length(path: Path) -> int:
    """Bytes up to and including the last newline."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1


def read_trajectory(path: Path) -> list[Event]:
    """All events of the file, blobs put back; an incomplete last line is left out.

    Args:
        path: the file, or the episode's folder.

    Raises:
        UserError: there is no such file, or a line that is not the last one is damaged.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "give the folder of an episode") from error
    return list(parse_lines(lines, path))


def parse_lines(lines: Sequence[bytes], path: Path) -> Iterator[Event]:
    """Events of the lines; the last one is what follows the final newline, and a torn write if it is not empty."""
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
            data = restore_blobs(entry["data"], path.parent / "blobs")
            yield Event(
                entry["seq"], entry["id"], entry["parent_id"], entry["ts"], entry["run_id"], entry["type"], data
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number} is not a trajectory event: {error}") from error


def restore_blobs(value: Any, blobs: Path) -> Any:
    """The value with each blob's text in its place; a blob that is missing stays a reference."""
    if isinstance(value, dict):
        if "$blob" in value:
            path = blobs / Path(str(value["$blob"])).name
            return path.read_text(encoding="utf-8") if path.is_file() else value
        return {key: restore_blobs(part, blobs) for key, part in value.items()}
    if isinstance(value, list):
        return [restore_blobs(part, blobs) for part in value]
    return value


def active_path(events: Sequence[Event], last_id: str | None = None) -> list[Event]:
    """The events from the root to ``last_id`` (or the file's last event): the story without abandoned branches."""
    by_id = {event.id: event for event in events}
    at = last_id or (events[-1].id if events else None)
    path: list[Event] = []
    while at is not None:
        event = by_id[at]
        path.append(event)
        at = event.parent_id
    return path[::-1]


def last_complete(events: Sequence[Event]) -> Event | None:
    """The last event of the last complete step: where a cut-off episode can go on."""
    for event in reversed(active_path(events)):
        if event.type in {"run_start", "workspace", "context"}:
            return event
    return None
