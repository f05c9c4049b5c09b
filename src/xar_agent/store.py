"""Records on disk: files that appear whole or not at all, JSON lines that survive a torn end, SQLite."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xar_agent.errors import StoreError

BUSY_TIMEOUT_MS = 10_000
TAIL_BYTES = 65_536
HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or choose another place with --runs-dir",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another place with --runs-dir",
    errno.EFBIG: "a file cannot grow: raise the limit (ulimit -f), or choose another place with --runs-dir",
    errno.EROFS: "the file system is read-only: choose another place with --runs-dir",
    errno.EACCES: "no permission to write there: choose another place with --runs-dir",
    errno.EPERM: "no permission to write there: choose another place with --runs-dir",
}
DISK_WORDS = re.compile(r"full|disk I/O")
"""What SQLite says when it is the disk's fault."""


@contextmanager
def store_errors(path: Path, action: str) -> Iterator[None]:
    """Turn what the disk or SQLite raises inside into a StoreError that names the file."""
    try:
        yield
    except OSError as error:
        hint = HINTS.get(error.errno or 0, "")
        raise StoreError(f"cannot {action} {path}: {error.strerror or error}", hint) from error
    except sqlite3.Error as error:
        hint = HINTS[errno.ENOSPC if "full" in str(error) else errno.EFBIG] if DISK_WORDS.search(str(error)) else ""
        raise StoreError(f"cannot {action} {path}: {error}", hint) from error


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text of a value. NaN and infinities are refused: no JSON reader outside Python takes them."""
    return plain_text(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent))


def plain_text(text: str) -> str:
    """The text with a question mark for each lone surrogate: neither a file, SQLite nor a terminal takes those."""
    return text.encode("utf-8", "replace").decode()


def plain_json(value: Any) -> Any:
    """A value from JSON with every text in it as ``plain_text``.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, dict):
        return {plain_text(key): plain_json(item) for key, item in value.items()}
    return [plain_json(item) for item in value] if isinstance(value, list) else value


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that readers see the old content or the new one, also after a power cut.

    Raises:
        StoreError: it could not be written; the old file is as it was and nothing half-written is left.
    """
    encoded = plain_text(content).encode() if isinstance(content, str) else content
    with store_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(encoded)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder lasting, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, atomically.

    Raises:
        StoreError: as ``write_atomic``.
    """
    write_atomic(path, to_json(value, indent=1) + "\n")


def append_line(path: Path, value: Any, fsync: bool = False) -> None:
    """Append one JSON line, whole or not at all. A torn last line of an earlier crash is cut off first.

    Raises:
        StoreError: it could not be written; the file ends with the last complete line.
    """
    line = to_json(value).encode() + b"\n"
    with store_errors(path, "append to"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end = cut_torn_line(descriptor)
            try:
                write_all(descriptor, line)
                if fsync:
                    os.fsync(descriptor)
            except BaseException:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte: a nearly full disk takes only some of them at first."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def cut_torn_line(descriptor: int) -> int:
    """Truncate the file to its last line end; the size that is left."""
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - TAIL_BYTES)
        chunk = os.pread(descriptor, end - start, start)
        cut = chunk.rfind(b"\n")
        if cut >= 0:
            end = start + cut + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)
    return end


def read_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines. A last line without its line end was torn by a crash and does not count.

    Raises:
        StoreError: the file cannot be read, or a complete line is not JSON; the message names it.
    """
    with store_errors(path, "read"):
        content = path.read_bytes()
    lines = content.split(b"\n")[:-1]
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise StoreError(f"{path}:{number} is not JSON: {error}") from error
    return values


def open_database(path: Path, schema: Sequence[str], *, read_only: bool = False) -> sqlite3.Connection:
    """Open a SQLite file and bring it up to the schema.

    Args:
        path: the file; made when missing, unless ``read_only``.
        schema: one script of SQL per version, oldest first. Append only: those that a file has had are not run again.
        read_only: for a reader beside the writing process, also where the folder is not writable.

    Raises:
        StoreError: it cannot be opened, is damaged, or was written by a newer release.
    """
    with store_errors(path, "open"):
        connection = connect_reader(path) if read_only else connect_writer(path)
        try:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(schema):
                raise StoreError(f"{path} was written by a newer release (schema {version})", "upgrade xar-agent")
            if not read_only:
                migrate(connection, schema, version)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """A connection whose commits survive a crash and do not block readers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One lock of the owner guards it: see jobs/runs.py.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Where the folder is read-only too, the file is taken as fixed."""
    writable = os.access(path.parent, os.W_OK)
    mode = "mode=ro" if writable else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


def migrate(connection: sqlite3.Connection, schema: Sequence[str], version: int) -> None:
    """Run the scripts that this file has not had, each in one transaction."""
    for number, script in enumerate(schema[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script};\nPRAGMA user_version = {number};\nCOMMIT;")
