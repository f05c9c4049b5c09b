"""Files without a name that a process tree holds open: on disk (open, unlink, write) or in memory (memfd, /dev/shm)."""

from __future__ import annotations

import os
import stat
import time

from .system import read_small  # noqa: TID251

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from collections.abc import Iterator

LOOK_EVERY_S = 0.5
PAGE = os.sysconf("SC_PAGE_SIZE")
SHM = "/dev/shm"


class Nameless:
    """Bytes in such files, looked at a little at a time.

    A file in memory that is mapped and closed shows in the resident set only, as far as it was touched; a process that
    made itself undumpable hides its files from an ordinary user.
    """

    def __init__(self, roots: list[str], *, own_shm: bool) -> None:
        self.devices = {device for device in map(device_of, roots) if device is not None}
        self.host_shm = device_of(SHM)
        self.own_shm = own_shm
        self.disk = self.memory = 0
        self.sees_all = False
        """Whether the last round could look into every process."""
        self.round: Iterator[None] | None = None
        self.next_start = 0.0

    def step(self, pids: list[int], now: float, slice_s: float = 0.005) -> None:
        """Go on for a moment; the sums grow at once and shrink when all was looked at."""
        if self.round is None:
            if now < self.next_start:
                return
            self.round = self.look(pids)
        stop = time.monotonic() + slice_s
        for _ in self.round:
            if time.monotonic() >= stop:
                return
        self.round = None
        self.next_start = now + LOOK_EVERY_S

    def look(self, pids: list[int]) -> Iterator[None]:
        shm, memory = self.shared_memory(pids)
        disk, seen, all_seen = 0, set(), True
        for pid in pids:
            try:
                fds = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - Path is slow to import
            except OSError as error:
                all_seen = all_seen and not isinstance(error, PermissionError)
                continue  # it ended, or is not ours to see
            for fd in fds:
                yield
                try:
                    known = os.stat(f"/proc/{pid}/fd/{fd}")  # noqa: PTH116 - Path is slow to import
                except OSError:
                    continue
                key = (known.st_dev, known.st_ino)
                if known.st_nlink or not stat.S_ISREG(known.st_mode) or known.st_dev == shm or key in seen:
                    continue
                seen.add(key)
                if known.st_dev in self.devices:
                    disk += known.st_blocks * 512
                else:
                    memory += known.st_blocks * 512
                self.disk, self.memory = max(self.disk, disk), max(self.memory, memory)
        self.disk, self.memory, self.sees_all = disk, memory, all_seen

    def shared_memory(self, pids: list[int]) -> tuple[int | None, int]:
        """Device of the sandbox's own /dev/shm and the bytes in it; nothing where it is the machine's."""
        for pid in sorted(pids) if self.own_shm else ():
            path = f"/proc/{pid}/root{SHM}"
            device = device_of(path)
            if device is not None and device != self.host_shm:
                try:
                    state = os.statvfs(path)
                except OSError:
                    continue
                return device, (state.f_blocks - state.f_bfree) * state.f_frsize
        return None, 0


def device_of(path: str) -> int | None:
    """Number of the device that a path lies on."""
    try:
        return os.stat(path).st_dev  # noqa: PTH116 - Path is slow to import
    except OSError:
        return None


def proportional_bytes(pids: list[int]) -> int:
    """Resident memory with what several processes share counted once; all of it where that cannot be seen.

    Takes some milliseconds a gigabyte.
    """
    total = 0
    for pid in pids:
        try:
            lines = read_small(f"/proc/{pid}/smaps_rollup").splitlines()
            total += next(int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:"))
        except (OSError, StopIteration):
            total += resident_bytes(pid)
    return total


def resident_bytes(pid: int) -> int:
    try:
        return int(read_small(f"/proc/{pid}/statm").split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0  # it ended while we looked


def private_bytes(pids: list[int]) -> int:
    """Resident memory without pages of files and of shared memory."""
    total = 0
    for pid in pids:
        try:
            words = read_small(f"/proc/{pid}/statm").split()
            total += (int(words[1]) - int(words[2])) * PAGE
        except (OSError, IndexError, ValueError):
            continue  # it ended while we looked
    return total
