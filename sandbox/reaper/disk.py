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
"""A disk that lost so many times the limit has lost it to the command, where not all that it wrote could be counted."""
SHARED_AND_SEEN = 16
"""Where all could: others write to the disk too, but a file that is mapped, deleted and closed is in no count."""
COUNT_LATE_S = 0.5
"""A count that takes longer says too little about now."""
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
        self.at_first: int | None = None
        """What the first count found: most of it was there before the command."""
        self.next_start = self.started = 0.0
        self.saw_all, self.missed = False, False
        self.begun = self.states()

    def __del__(self) -> None:
        if self.entries is not None:  # a count that was cut short
            self.entries.close()

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

    def is_over(self, limit: int, nameless: int, *, sees_nameless: bool = False) -> bool:
        """Whether the command uses more than ``limit`` bytes, ``nameless`` of them in files without a name.

        ``sees_nameless`` says that no such file could have been hidden from the caller.
        """
        if max(self.used, self.sum) + nameless > self.allowed(limit):
            return True
        shared = SHARED_AND_SEEN if self.saw_all and sees_nameless else SHARED
        for device, (free, ours, used) in self.states().items():
            free_then, ours_then, used_then = self.begun.get(device, (free, ours, used))
            if max(free_then - free, used - used_then) > shared * limit or ours < min(FLOOR_BYTES, ours_then // 2):
                return True
        return False

    def allowed(self, limit: int) -> int:
        """Bytes that a command may see used: where earlier ones left too much it can clear up, but hardly add to it."""
        if self.at_first is None:
            return max(limit, self.sum)  # until then the disks' own word holds
        return limit if self.at_first <= limit else max(self.at_first, min(self.at_first + limit // 16, 2 * limit))

    def step(self, now: float, slice_s: float = 0.01) -> None:
        """Go on counting for a moment; ``used`` changes once all is counted, ``sum`` is what was found so far."""
        if self.entries is None and not self.todo:
            if now < self.next_start:
                return
            self.todo, self.sum = list(self.roots), 0
            self.started, self.missed = now, False
        stop = time.monotonic() + slice_s
        while (self.entries is not None or self.todo) and time.monotonic() < stop:
            self.count()
        if self.entries is None and not self.todo:
            self.used = self.sum
            self.at_first = self.sum if self.at_first is None else self.at_first
            self.saw_all = not self.missed
            self.next_start = now + COUNT_EVERY_S
        elif now > self.started + COUNT_LATE_S:
            self.saw_all = False

    def count(self) -> None:
        """One entry, or the start or end of a folder."""
        try:
            if self.entries is None:
                self.entries = os.scandir(self.todo.pop())
            entry = next(self.entries, None)
        except OSError as error:
            entry = None  # gone, or not ours to read, or too deep
            self.missed = self.missed or not isinstance(error, FileNotFoundError)
        if entry is None:
            self.entries = None
            return
        try:
            self.sum += max(ENTRY_BYTES, entry.stat(follow_symlinks=False).st_blocks * 512)
            if entry.is_dir(follow_symlinks=False):
                self.todo.append(entry.path)
        except OSError:
            return
