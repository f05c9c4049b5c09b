"""Exclusive leases of named things over all processes and users of a machine, in the order of the wishes for them.

One file a thing, and whoever holds its lock (flock) holds the thing: the kernel lets go when the holder dies, however
that comes. One file a wish, locked as long as its owner lives: the earliest wish that is alive takes what it needs, all
at once, so that nobody holds a part while waiting for the rest. Nobody writes into a file that he has not made himself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import CapabilityMissing, Interrupted
from xar_agent.sandbox.flocks import NEW, READ, can_lock, lock_all, patiently

POLL_S = 0.05
MAX_TICKET_BYTES = 8192
YOUNG_S = 60.0
"""A younger ticket may not have its lock yet."""
TICKET = re.compile(r"(new|wait|held)-\d{20}-\d+-\d+")
"""Its time since the machine started in nanoseconds, its process, its number there."""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Lease:
    """One thing that is held."""

    name: str
    pid: int
    """As the holder itself sees it: in a container it has another number here."""
    uid: int


class LeaseFolder:
    """The folder with the locks; every user of the machine may use the same one.

    Args:
        path: made when it is missing, sticky and open to all; its parent must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def hold(
        self,
        names: Sequence[str],
        count: int,
        *,
        timeout_s: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[tuple[str, ...]]:
        """Hold ``count`` of these; waits for its turn.

        Args:
            names: those that would do, at least ``count``.
            count: how many.
            timeout_s: None waits without end.
            cancel: ends the wait when set.

        Raises:
            Interrupted: it was cancelled.
            CapabilityMissing: too few came free in time, or the folder cannot be used.
        """
        with contextlib.ExitStack() as stack:
            with self._usable():
                folder = self._open()
                stack.callback(os.close, folder)
                ticket = Ticket(folder, names)
                stack.callback(ticket.close)
                locks = self._wait(folder, ticket, names, count, timeout_s, cancel)
                for lock in locks.values():
                    stack.callback(os.close, lock)
                ticket.say_held(tuple(locks))
            yield tuple(locks)

    def held(self) -> tuple[Lease, ...]:
        """Who holds what now; empty where nobody ever held anything.

        Raises:
            CapabilityMissing: the folder cannot be used.
        """
        if not self.path.exists():
            return ()
        with self._usable():
            folder = self._open()
            try:
                return tuple(
                    Lease(thing, int(name.split("-")[2]), owner)
                    for name in tickets(folder, "held-")
                    for thing, owner in promised(folder, name)
                )
            finally:
                os.close(folder)

    def _wait(
        self,
        folder: int,
        ticket: Ticket,
        names: Sequence[str],
        count: int,
        timeout_s: float | None,
        cancel: threading.Event | None,
    ) -> dict[str, int]:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        pause = cancel or threading.Event()
        ahead = ticket.nearest_ahead()
        while True:
            if ahead is not None and not promised(folder, ahead):
                ahead = ticket.nearest_ahead()
            if ahead is None and (locks := lock_all(folder, names, count)):
                return locks
            if end is not None and time.monotonic() >= end:
                pids = ", ".join(sorted({str(held.pid) for held in self.held()})) or "unknown"
                problem = f"{count} of {len(names)} devices did not come free within {timeout_s:g} s"
                raise CapabilityMissing(problem, f"held by the processes {pids}")
            if pause.wait(POLL_S):
                raise Interrupted("cancelled while waiting for a device")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else ""
            place = self.path / where if where else self.path
            hint = "remove it, or name another folder in XAR_GPU_LEASES, the same for every user of this machine"
            raise CapabilityMissing(f"leases cannot be kept in {place}: {error.strerror}", hint) from error

    def _open(self) -> int:
        """A descriptor of the folder.

        Raises:
            OSError: it is a link, or anyone may remove another's lock in it.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)  # noqa: PTH102  (opened to all below, by handle)
            made = os.open(self.path, READ | os.O_DIRECTORY)
            try:
                os.fchmod(made, 0o1777)
            finally:
                os.close(made)
        folder = patiently(lambda: os.open(self.path, READ | os.O_DIRECTORY))
        mode = os.fstat(folder).st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            os.close(folder)
            raise PermissionError(errno.EPERM, "others may remove locks there; chmod +t would make it safe")
        return folder


class Ticket:
    """A wish in the queue, then a note of what is held. Its file is locked as long as we live."""

    def __init__(self, folder: int, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = frozenset(names)
        sweep(folder)
        number = f"{time.monotonic_ns():020d}-{os.getpid()}-{next(_numbers)}"
        self.name = f"wait-{number}"
        self._fd = os.open(f"new-{number}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | NEW, 0o644, dir_fd=folder)
        try:
            os.fchmod(self._fd, 0o644)  # whatever the umask: every user must see whether it is locked
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(names)
            os.rename(f"new-{number}", self.name, src_dir_fd=folder, dst_dir_fd=folder)  # noqa: PTH104
        except BaseException:
            os.close(self._fd)
            raise

    def nearest_ahead(self) -> str | None:
        """The last living wish before this one for any of the same things; None when it is this one's turn."""
        for name in reversed(tickets(self._folder, "wait-")):
            if name < self.name and self._names.intersection(thing for thing, _ in promised(self._folder, name)):
                return name
        return None

    def say_held(self, names: Sequence[str]) -> None:
        """It has what it waited for."""
        self._write(names)
        held = self.name.replace("wait-", "held-")
        os.rename(self.name, held, src_dir_fd=self._folder, dst_dir_fd=self._folder)  # noqa: PTH104
        self.name = held

    def close(self) -> None:
        """Leave the queue."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._folder)  # noqa: PTH108
        os.close(self._fd)

    def _write(self, names: Sequence[str]) -> None:
        """Over what was there, in one go: nobody may see it without names in between."""
        text = "\n".join(names).encode()
        os.pwrite(self._fd, text.ljust(os.fstat(self._fd).st_size), 0)


def tickets(folder: int, kind: str) -> list[str]:
    """Names of the tickets of one kind, the earliest first."""
    return sorted(name for name in os.listdir(folder) if name.startswith(kind) and TICKET.fullmatch(name))  # noqa: PTH208


def promised(folder: int, name: str) -> list[tuple[str, int]]:
    """What a ticket is for and whose it is; nothing when its owner is gone."""
    try:
        fd = os.open(name, READ, dir_fd=folder)
    except OSError:
        return []
    try:
        if can_lock(fd, fcntl.LOCK_SH):
            return []
        owner = os.fstat(fd).st_uid
        return [(word, owner) for word in os.pread(fd, MAX_TICKET_BYTES, 0).decode(errors="replace").split()]
    except OSError:
        return []
    finally:
        os.close(fd)


def sweep(folder: int) -> None:
    """Remove our own tickets whose process was killed."""
    for name in abandoned(folder):
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)  # noqa: PTH108


def abandoned(folder: int) -> list[str]:
    """Our own tickets whose process was killed."""
    found = []
    for name in (*tickets(folder, "new-"), *tickets(folder, "wait-"), *tickets(folder, "held-")):
        with contextlib.suppress(OSError):
            known = os.stat(name, dir_fd=folder, follow_symlinks=False)  # noqa: PTH116
            young = name.startswith("new-") and time.time() - known.st_mtime < YOUNG_S
            if known.st_uid == os.geteuid() and not young and not is_alive(folder, name):
                found.append(name)
    return found


def is_alive(folder: int, name: str) -> bool:
    """Whether a ticket's process is, told by the lock alone.

    Raises:
        OSError: the ticket is gone, perhaps under another name.
    """
    fd = os.open(name, READ, dir_fd=folder)
    try:
        return not can_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)
