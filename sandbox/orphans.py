"""Processes of ours whose driver is dead, told by proof and not by name alone.

A supervisor and an embedded model's server each read a pipe that their driver, and nobody else, writes to: without a
writer the driver is gone. They end by themselves then, unless something stopped them. A command of the ``process``
back end names the private folder of its sandbox in TMPDIR: a folder without a living maker has no living driver.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xar_agent.sandbox import held
from xar_agent.sandbox.supervised import REAPER

PROC = Path("/proc")
END_S = 3.0
"""A supervisor that is awake again ends its tree within this time."""
SUPERVISES = REAPER[REAPER.index("from reaper") :]
CONTROL = 6
"""Place of a supervisor's first descriptor among its words."""
CHILD = "local_child.py"


@dataclass(frozen=True, slots=True)
class Seen:
    """One process of this machine."""

    pid: int
    parent: int
    user: int
    argv: tuple[str, ...]

    @property
    def is_supervisor(self) -> bool:
        """It watches over one command."""
        return len(self.argv) == CONTROL + 4 and self.argv[CONTROL - 1].endswith(SUPERVISES)

    @property
    def is_model_server(self) -> bool:
        """It serves the embedded model, or downloads it."""
        return self.argv[1:2] == ("-P",) and len(self.argv) > 3 and Path(self.argv[2]).name == CHILD

    @property
    def lifeline(self) -> str:
        """The descriptor on which it hears from its driver; empty for other programs."""
        if self.is_supervisor:
            return self.argv[CONTROL]
        return "0" if self.is_model_server else ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process whose driver is dead."""

    pid: int
    what: str
    """For a person: what it was for."""
    unsure: str = ""
    """Why it is left alone; empty when it may be ended."""


def processes() -> dict[int, Seen]:
    """All living processes that can be seen, by id."""
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError, ValueError, IndexError):  # it ends while we look
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                words = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
                if fields[0] not in "ZX":
                    pid = int(folder.name)
                    found[pid] = Seen(pid, int(fields[1]), folder.stat().st_uid, tuple(map(os.fsdecode, words)))
    return found


def orphans() -> list[Orphan]:
    """This user's processes whose driver is dead, supervisors first. Changes nothing."""
    seen = processes()
    mine = [pid for pid, one in seen.items() if one.user == os.geteuid()]
    found: list[Orphan] = []
    lines = {pid: pipe for pid in mine if seen[pid].lifeline and (pipe := pipe_of(pid, seen[pid].lifeline))}
    if lines:
        written, hidden = written_pipes(mine)
        for pid, pipe in lines.items():
            if pipe not in written:
                what = "a sandboxed command's supervisor" if seen[pid].is_supervisor else "embedded model's server"
                parent = seen[pid].parent
                unsure = f"its parent {parent} cannot be looked into and may be its driver" if parent in hidden else ""
                found.append(Orphan(pid, what, unsure))
    return found + [orphan for pid in mine if (orphan := stray_command(pid, seen))]


def pipe_of(pid: int, descriptor: str) -> str:
    """Name of the pipe that a process reads on a descriptor; empty when it is none."""
    with suppress(OSError):
        target = str((PROC / str(pid) / "fd" / descriptor).readlink())
        return target if target.startswith("pipe:") else ""
    return ""


def written_pipes(pids: Iterable[int]) -> tuple[set[str], set[int]]:
    """Every pipe that one of the processes can write to; and the processes that do not let us look."""
    written: set[str] = set()
    hidden: set[int] = set()
    for pid in pids:
        try:
            for link in (PROC / str(pid) / "fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    target = str(link.readlink())
                    if target.startswith("pipe:") and is_written(pid, link.name):
                        written.add(target)
        except PermissionError:
            hidden.add(pid)
        except OSError:
            continue
    return written, hidden


def is_written(pid: int, descriptor: str) -> bool:
    """The descriptor is open for writing."""
    text = (PROC / str(pid) / "fdinfo" / descriptor).read_text()
    flags = next(line.split()[1] for line in text.splitlines() if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def stray_command(pid: int, seen: Mapping[int, Seen]) -> Orphan | None:
    """A command of a ``process`` sandbox whose maker and supervisor are both gone."""
    folder = sandbox_of(pid)
    if folder is None or is_supervised(pid, seen):
        return None
    with suppress(FileNotFoundError):
        if held.is_held(folder):
            return None
    return Orphan(pid, f"command of the sandbox {folder.name}")


def sandbox_of(pid: int) -> Path | None:
    """Private folder of the sandbox that a process was started in, by its first environment."""
    with suppress(OSError):
        for entry in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            path = Path(os.fsdecode(value))
            if name == b"TMPDIR" and path.name == "tmp" and path.parent.name.startswith("xar-sandbox-"):
                return path.parent
    return None


def is_supervised(pid: int, seen: Mapping[int, Seen]) -> bool:
    """One of its ancestors is a supervisor, which will end it."""
    return any(one.is_supervisor for one in ancestors(pid, seen))


def ancestors(pid: int, seen: Mapping[int, Seen]) -> Iterator[Seen]:
    """From the process itself upwards, as far as they can be seen."""
    met: set[int] = set()
    while pid in seen and pid not in met:
        met.add(pid)
        yield seen[pid]
        pid = seen[pid].parent


def end(pid: int) -> None:
    """End an orphan and everything below it.

    Raises:
        OSError: it cannot be ended, or is no longer an orphan.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if pid not in {orphan.pid for orphan in orphans() if not orphan.unsure}:  # the number may be another's by now
            if pid in processes():
                raise OSError(f"process {pid} is not an orphan any more")
            return
        signal.pidfd_send_signal(handle, signal.SIGCONT)  # a supervisor that was stopped then ends its own tree
        if processes()[pid].is_supervisor and has_ended(pid, END_S):
            return
        for below in [*descendants(pid), pid]:
            with suppress(ProcessLookupError):
                os.kill(below, signal.SIGSTOP)  # first all of them stand still, or a fork bomb outruns us
        for below in [*descendants(pid), pid]:
            with suppress(ProcessLookupError):
                os.kill(below, signal.SIGKILL)
        if not has_ended(pid, END_S):
            raise OSError(f"process {pid} outlives SIGKILL: it is stuck in the kernel")
    except (KeyError, ProcessLookupError):
        return  # it ended by itself
    finally:
        os.close(handle)


def descendants(pid: int) -> list[int]:
    """Processes below it, whoever owns them."""
    seen = processes()
    found = [pid]
    for above in found:
        found += [one.pid for one in seen.values() if one.parent == above]
    return found[1:]


def has_ended(pid: int, timeout_s: float) -> bool:
    """Wait for a process that need not be our child."""
    stop = time.monotonic() + timeout_s
    while pid in processes():
        if time.monotonic() > stop:
            return False
        time.sleep(0.02)
    return True
