"""The lock of a run: one process may write its database at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from xar_agent.errors import UserError
from xar_agent.store import store_errors

LOCK = "driver.lock"


def take_lock(folder: Path) -> int:
    """Descriptor that holds the run's lock; the kernel lets go of it however the process ends.

    Raises:
        UserError: another process holds it.
    """
    path = folder / LOCK
    with store_errors(path, "lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            hint = "wait for it, stop it, or use another --run"
            raise UserError(f"run {folder.name!r} is in use by process {owner or '(unknown)'}", hint) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def is_active(folder: Path) -> bool:
    """Whether a driver holds the run's lock now."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
