"""Locked files of a folder that several users share: the kernel unlocks them when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Sequence

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NEW = os.O_CREAT | os.O_EXCL
TRIES = 40
PAUSE_S = 0.05
"""Two seconds in all: another user may have made a file just now, and it is not readable yet."""


def lock_all(folder: int, names: Sequence[str], count: int) -> dict[str, int]:
    """Descriptors of ``count`` locks by name, or of none."""
    locks: dict[str, int] = {}
    try:
        for name in names:
            if len(locks) < count and (lock := lock_one(folder, f"{name}.lock")) is not None:
                locks[name] = lock
    except BaseException:
        close_all(locks)
        raise
    if len(locks) == count:
        return locks
    close_all(locks)
    return {}


def close_all(locks: dict[str, int]) -> None:
    """Let go of locks."""
    for lock in locks.values():
        os.close(lock)


def lock_one(folder: int, name: str) -> int | None:
    """A descriptor of the file, locked; None where another one holds it."""
    while True:
        lock = patiently(lambda: open_or_make(folder, name))
        if not can_lock(lock, fcntl.LOCK_EX):
            os.close(lock)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(lock)):  # noqa: PTH116
                with contextlib.suppress(PermissionError):  # another user's
                    os.utime(lock)  # so that whoever removes old files leaves it
                return lock
        os.close(lock)  # somebody removed the file in between


def patiently(open_it: Callable[[], int]) -> int:
    """Its descriptor; tried again while its maker has not yet opened it to others.

    Raises:
        PermissionError: he never did.
    """
    for _ in range(TRIES):
        with contextlib.suppress(PermissionError):
            return open_it()
        time.sleep(PAUSE_S)
    return open_it()


def can_lock(fd: int, kind: int) -> bool:
    """Lock it now, or say that another one has."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_or_make(folder: int, name: str) -> int:
    """Without O_CREAT first: the kernel refuses it for another user's file in a sticky folder."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, READ, dir_fd=folder)
        with contextlib.suppress(FileExistsError):
            fd = os.open(name, READ | NEW, 0o644, dir_fd=folder)
            os.fchmod(fd, 0o644)
            return fd
