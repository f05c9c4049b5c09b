"""Private folders in the temporary directory, each with a lock that its maker holds as long as it lives.

Whoever can take the lock may remove the folder: the maker is dead.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from xar_agent.sandbox import files
from xar_agent.sandbox.flocks import can_lock

LOCK = "lock"
KINDS = ("sandbox", "probe", "index", "calibrate", "io", "gpu")
Kind = Literal["sandbox", "probe", "index", "calibrate", "io", "gpu"]
NEW_S = 60.0
"""A younger folder may not have its lock yet."""
IN_USE = "in use"


class HeldFolder:
    """A new folder of ours, gone when closed; as a context manager it gives its path."""

    def __init__(self, kind: Kind, *, parent: Path | None = None) -> None:
        """Make it in ``parent``, else in the temporary directory."""
        self.path = Path(tempfile.mkdtemp(prefix=f"xar-{kind}-", dir=parent))
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it. Calling twice is fine."""
        if self._lock >= 0:
            files.remove_tree(self.path)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.close()


def held_folders(parent: Path) -> Iterator[Path]:
    """This user's folders of the kinds above."""
    for kind in KINDS:
        for path in sorted(parent.glob(f"xar-{kind}-*")):
            try:
                known = path.lstat()
            except OSError:
                continue  # its maker has just removed it
            if known.st_uid == os.geteuid() and path.is_dir() and not path.is_symlink():
                yield path


def is_new(path: Path) -> bool:
    """Too young to be judged."""
    return time.time() - path.lstat().st_mtime < NEW_S


def why_kept(path: Path) -> str:
    """Why a folder may not be removed: "in use" by a living maker, or a reason for a person; empty when it may be."""
    if is_new(path):
        return "it is younger than a minute: its maker may not have locked it yet"
    try:
        return IN_USE if is_held(path) else ""
    except FileNotFoundError:
        return "it has no lock, so nobody can tell whether it is in use" if any(path.iterdir()) else ""


def is_held(path: Path) -> bool:
    """Whether its maker is alive.

    Raises:
        FileNotFoundError: it has no lock, or is gone.
    """
    lock = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return not can_lock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def remove(path: Path) -> None:
    """Remove a folder whose maker is dead.

    Raises:
        BlockingIOError: somebody holds its lock.
        OSError: it cannot be removed.
    """
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        path.rmdir()
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.remove_tree(path)
    finally:
        os.close(lock)


def sweep(parent: Path) -> int:
    """Remove what drivers that were killed have left; how many folders that were."""
    count = 0
    for path in held_folders(parent):
        with suppress(OSError):  # another driver is removing it
            if not why_kept(path):
                remove(path)
                count += 1
    return count
