"""Take what a training run left behind: its checkpoint when it has ended, its curve while it grows.

Both are written by the candidate. Only regular files are opened, links are never followed, and sizes are bounded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xar_agent.store import plain_json, store_errors, to_json, write_all

OUT = "out"
MAX_CHECKPOINT_FILES = 16
MAX_CHECKPOINT_BYTES = 512 << 20
MAX_CURVE_BYTES = 16 << 20
MAX_CURVE_LINE_BYTES = 4096
MAX_POINTS_KEPT = 100_000
CURVE_CHUNK_BYTES = 1 << 20
COPY_BYTES = 1 << 20
SAFE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class BadOutput(Exception):
    """The run left no usable checkpoint; the text says why, for the agent."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One line of the candidate's own curve: information, never a score."""

    step: int
    tokens: int
    loss: float | None


@contextmanager
def open_out(workspace: Path) -> Iterator[int]:
    """Descriptor of the workspace's out folder.

    Raises:
        FileNotFoundError, NotADirectoryError: it is not there, or is a link.
    """
    with ExitStack() as stack:
        top = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, top)
        try:
            out = os.open(OUT, SAFE | os.O_DIRECTORY, dir_fd=top)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(f"{OUT} is a link") from error
            raise
        stack.callback(os.close, out)
        yield out


def open_up(workspace: Path) -> None:
    """Let the host enter the workspace and its out folder again, whatever mode the run gave them.

    Raises:
        BadOutput: out is no folder of ours.
    """
    try:
        top = enterable(workspace, None)
        try:
            with suppress(FileNotFoundError, NotADirectoryError):  # whoever looks for a checkpoint there says so
                os.close(enterable(OUT, top))
        finally:
            os.close(top)
    except PermissionError as error:
        raise BadOutput(f"the workspace or its {OUT} folder cannot be entered") from error


def enterable(name: str | Path, parent: int | None) -> int:
    """Handle of a folder that has mode 755 now; by handle, so that it cannot become a link in between."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{handle}").chmod(0o755)
    except BaseException:
        os.close(handle)
        raise
    return handle


def collect_checkpoint(workspace: Path, target: Path, *, max_bytes: int = MAX_CHECKPOINT_BYTES) -> str:
    """Copy out/checkpoint* into a new folder; sha256 over names and contents.

    Raises:
        BadOutput: there is none, or it is no regular file, or too large.
        StoreError: it cannot be written.
    """
    state = hashlib.sha256()
    try:
        with open_out(workspace) as out:
            names = sorted(name for name in os.listdir(out) if name.startswith("checkpoint"))  # noqa: PTH208
            if not names:
                raise BadOutput("training wrote no out/checkpoint*")
            if len(names) > MAX_CHECKPOINT_FILES:
                raise BadOutput(
                    f"training wrote {len(names)} files out/checkpoint*; {MAX_CHECKPOINT_FILES} are allowed"
                )
            with store_errors(target, "write"):
                target.mkdir(parents=True)
            left = max_bytes
            for name in names:
                digest, size = copy_regular(out, name, target / name, left)
                state.update(to_json([name, digest]).encode())
                left -= size
    except (FileNotFoundError, NotADirectoryError):
        raise BadOutput("training wrote no out/checkpoint* (out is not a folder)") from None
    except PermissionError:  # of reading: what is written raises StoreError
        raise BadOutput(f"the workspace or its {OUT} folder cannot be read") from None
    return state.hexdigest()


def copy_regular(folder: int, name: str, target: Path, max_bytes: int) -> tuple[str, int]:
    """Copy one file that a candidate wrote; its sha256 and size.

    Raises:
        BadOutput: it is no regular file, or too large.
    """
    try:
        source = os.open(name, SAFE, dir_fd=folder)
    except OSError as error:
        raise BadOutput(f"out/{name} is a link, or cannot be read") from error
    state, size = hashlib.sha256(), 0
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise BadOutput(f"out/{name} is not a regular file")
        with store_errors(target, "write"), target.open("xb") as file:
            while chunk := os.read(source, COPY_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise BadOutput("out/checkpoint* is larger than allowed")
                state.update(chunk)
                file.write(chunk)
            os.fchmod(file.fileno(), 0o644)
    finally:
        os.close(source)
    return state.hexdigest(), size


@dataclass(slots=True)
class CurveFollower:
    """Reads out/metrics.jsonl while it grows and copies its good lines to a file of the host."""

    workspace: Path
    copy_path: Path | None
    max_bytes: int = MAX_CURVE_BYTES
    points: list[CurvePoint] = field(default_factory=list)
    _offset: int = 0
    _torn: bytes = b""

    def poll(self) -> CurvePoint | None:
        """Take what is new; the last new point, if there is one."""
        before = len(self.points)
        with suppress(OSError):  # not there yet, or not a file that we read
            self._take(self._read())
        return self.points[-1] if len(self.points) > before else None

    def finish(self) -> None:
        """Take everything that is left."""
        while self.poll():
            pass

    def _read(self) -> bytes:
        with open_out(self.workspace) as out:
            descriptor = os.open("metrics.jsonl", SAFE, dir_fd=out)
            try:
                room = min(CURVE_CHUNK_BYTES, self.max_bytes - self._offset)
                if room <= 0 or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return b""
                chunk = os.pread(descriptor, room, self._offset)
            finally:
                os.close(descriptor)
        self._offset += len(chunk)
        return chunk

    def _take(self, chunk: bytes) -> None:
        *lines, torn = (self._torn + chunk).split(b"\n")
        self._torn = torn[: MAX_CURVE_LINE_BYTES + 1]
        good = [values for line in lines if (values := parse_curve_line(line)) is not None]
        for values in good[: MAX_POINTS_KEPT - len(self.points)]:
            loss = values.get("loss")
            self.points.append(CurvePoint(int(values.get("step") or 0), int(values.get("tokens") or 0), loss))
        if good and self.copy_path:
            with store_errors(self.copy_path, "append to"), self.copy_path.open("ab") as file:
                write_all(file.fileno(), b"".join(to_json(values).encode() + b"\n" for values in good))


def parse_curve_line(line: bytes) -> dict[str, Any] | None:
    """The finite numbers of a line of the curve; None when it is none. A loss that is not finite becomes null."""
    if not line or len(line) > MAX_CURVE_LINE_BYTES:
        return None
    try:
        values = plain_json(json.loads(line))
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not is_count(values.get("step", 0)) or not is_count(values.get("tokens", 0)):
        return None
    kept = {k[:64]: v for k, v in values.items() if type(v) in (int, float) and is_plain(v)}
    return {**kept, "loss": kept.get("loss")}


def is_plain(value: float) -> bool:
    """Finite, and small enough for every JSON reader."""
    return abs(value) < 1e300 and math.isfinite(value)


def is_count(value: object) -> bool:
    """A whole number that a run can have reached."""
    return type(value) is int and 0 <= value < 1 << 53


def read_curve(path: Path) -> tuple[CurvePoint, ...]:
    """The points of a copied curve; none when there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return ()
    good = [values for line in lines if (values := parse_curve_line(line)) is not None]
    return tuple(CurvePoint(int(v.get("step") or 0), int(v.get("tokens") or 0), v["loss"]) for v in good)
