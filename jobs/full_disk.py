"""Whatever failed while the host's disk was full is not the candidate's fault, unless the candidate filled it."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from xar_agent.errors import StoreError
from xar_agent.sandbox.protocol import ExecResult
from xar_agent.sandbox.reaper.disk import FLOOR_BYTES
from xar_agent.store import HINTS

FULL_DISK_BYTES = 64 << 20
"""With less, a program's own error may come from that."""


def blame_full_disk(folder: Path, what: str, *, below: int = FULL_DISK_BYTES) -> None:
    """Raise when the disk of the folder is full.

    Args:
        folder: on that disk.
        what: ended because of it.
        below: with fewer free bytes it counts as full.

    Raises:
        StoreError: it is.
    """
    if shutil.disk_usage(folder).free < below:
        raise StoreError(f"{what} ended because the disk of {folder} is full", HINTS[errno.ENOSPC])


def blame_stopped(folder: Path, what: str, result: ExecResult) -> None:
    """Raise when a command was stopped for the disk's sake, and the disk would be as full without the folder's files.

    Raises:
        StoreError: others have filled the disk.
    """
    if result.stopped_by == "disk":
        blame_full_disk(folder, what, below=FLOOR_BYTES - bytes_below(folder))


def bytes_below(folder: Path) -> int:
    """What the files of a folder take of the disk; those that cannot be read are not counted."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total
