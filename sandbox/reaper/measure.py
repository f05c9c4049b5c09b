"""What a process tree uses, seen from outside: CPU and resident memory."""

from __future__ import annotations

import os
import resource

from .system import read_small  # noqa: TID251

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from typing import Any

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Stat:
    """One line of /proc/PID/stat."""

    __slots__ = ("dead", "family_cpu_s", "own_cpu_s", "ppid", "rss", "start")

    def __init__(self, line: bytes) -> None:
        words = line.rpartition(b")")[2].split()
        # A zombie with threads is no corpse: its first thread has ended, the others run.
        self.dead = words[0] == b"X" or (words[0] == b"Z" and int(words[17]) < 2)
        self.ppid = int(words[1])
        self.own_cpu_s = (int(words[11]) + int(words[12])) / CLOCK_TICKS
        self.family_cpu_s = self.own_cpu_s + (int(words[13]) + int(words[14])) / CLOCK_TICKS
        self.start = int(words[19])
        self.rss = int(words[21]) * PAGE


def descendants() -> dict[int, Stat]:
    """All processes below this one. As the subreaper we also get what was orphaned or called setsid."""
    stats: dict[int, Stat] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - Path is slow to import
        if name.isdigit():
            try:
                stats[int(name)] = Stat(read_small(f"/proc/{name}/stat"))
            except (OSError, IndexError, ValueError):
                continue  # it ended while we looked
    below: dict[int, Stat] = {}
    by_parent: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        by_parent.setdefault(stat.ppid, []).append(pid)
    todo = [os.getpid()]
    while todo:
        for pid in by_parent.get(todo.pop(), ()):
            below[pid] = stats[pid]
            todo.append(pid)
    return below


class Meter:
    """CPU and memory of the tree, from outside."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.cgroup = job["cgroup"]
        self.seen: dict[tuple[int, int], float] = {}
        self.cpu_s = 0.0
        self.rss = 0

    def look(self) -> dict[int, Stat]:
        tree = descendants()
        self.rss = sum(stat.rss for stat in tree.values())
        for pid, stat in tree.items():
            self.seen[pid, stat.start] = stat.own_cpu_s
        # Two lower bounds: what parents have waited for, and what we saw of children that nobody waits for.
        waited = self.reaped_s() + sum(stat.family_cpu_s for stat in tree.values())
        self.cpu_s = max(self.cpu_s, waited, sum(self.seen.values()), self.cgroup_cpu_s())
        return tree

    def reaped_s(self) -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def cgroup_cpu_s(self) -> float:
        path = self.cgroup.get("cpu")
        if not path:
            return 0.0
        try:
            text = read_small(path)
        except OSError:
            return 0.0
        return int(text.split()[1]) / 1e6 if text.startswith(b"usage_usec") else int(text) / 1e9

    def oom_kills(self) -> int:
        path = self.cgroup.get("oom")
        try:
            lines = read_small(path).splitlines() if path else []
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith(b"oom_kill "))
