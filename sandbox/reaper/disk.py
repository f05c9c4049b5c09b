"""How much of the disk a command uses: a count of its files, and what the disk has lost since it began."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from typing import Any

COUNT_EVERY_S = 0.5
ENTRY_BYTES = 4096
"""What a file or folder costs at least, be it empty."""
SHARED = 2
"""A disk that lost so many times the limit has lost it to the command; others may write to it too."""
FLOOR_BYTES = 128 << 20
"""Free space that no command may take; on a disk with little left at the start: half of that."""


class Disk:
    """Bytes below some folders and on their disks. What files without a name hold is handed in by the caller.

    The count goes on a little at a time, so that no deadline is missed; folders that we may not read or that are too
    deep to be named are left to what the disks have lost.
    """

    def __init__(self, roots: list[str]) -> None:
        self.roots = roots
        self.todo: list[str] = []
        self.entries: Any = None
        self.sum = 0
        self.used = 0
        self.next_start = 0.0
        self.begun = self.states()

    def states(self) -> dict[int, tuple[int, int, int]]:
        """Device: bytes free for all, bytes free for us, bytes that its entries take at least."""
        found = {}
        for root in self.roots:
            try:
                state, device = os.statvfs(root), os.stat(root).st_dev  # noqa: PTH116 - Path is slow to import
            except OSError:
                continue
            used = (state.f_files - state.f_ffree) * ENTRY_BYTES
            found[device] = (state.f_bfree * state.f_frsize, state.f_bavail * state.f_frsize, used)
        return found

    def is_over(self, limit: int, nameless: int) -> bool:
        """Whether the command uses more than ``limit`` bytes, ``nameless`` of them in files without a name."""
        if max(self.used, self.sum) + nameless > limit:
            return True
        for device, (free, ours, used) in self.states().items():
            free_then, ours_then, used_then = self.begun.get(device, (free, ours, used))
            if max(free_then - free, used - used_then) > SHARED * limit or ours < min(FLOOR_BYTES, ours_then // 2):
                return True
        return False

    def step(self, now: float, slice_s: float = 0.01) -> None:
        """Go on counting for a moment; ``used`` changes once all is counted, ``sum`` is what was found so far."""
        if self.entries is None and not self.todo:
            if now < self.next_start:
                return
            self.todo, self.sum = list(self.roots), 0
        stop = time.monotonic() + slice_s
        while (self.entries is not None or self.todo) and time.monotonic() < stop:
            self.count()
        if self.entries is None and not self.todo:
            self.used = self.sum
            self.next_start = now + COUNT_EVERY_S

    def count(self) -> None:
        """One entry, or the start or end of a folder."""
        try:
            if self.entries is None:
                self.entries = os.scandir(self.todo.pop())
            entry = next(self.entries, None)
        except OSError:
            entry = None  # gone, or not ours to read
        if entry is None:
            self.entries = None
            return
        try:
            self.sum += max(ENTRY_BYTES, entry.stat(follow_symlinks=False).st_blocks * 512)
            if entry.is_dir(follow_symlinks=False):
                self.todo.append(entry.path)
        except OSError:
            return
