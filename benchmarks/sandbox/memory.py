"""How much memory a contender takes while a command writes much."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

from contender import Contender, Entry, Gone, Hung, command_line, kill_marked, peak_mib
from measure import PROGRAM, QUICK_S, RUN, Field, timed

FLOOD_DEADLINE_S = 90
FLOOD_CAP_S = 120.0


@dataclass(frozen=True, slots=True)
class Flood:
    """``hostile.FLOOD_MIB`` of output, in a fresh process."""

    before_mib: float
    """VmHWM of the contender's process after its first command."""
    growth_mib: float
    """How much higher it was afterwards."""
    children_mib: float
    """Highest VmHWM of a process that it started itself (the shell, the client, the supervisor)."""
    took_s: float
    n_bytes: int | None
    """Counted by the library, where it counts."""
    kept_chars: int
    hung: bool
    error: str = ""


def flood(entry: Entry, scratch: Path) -> Flood:
    """Memory of a fresh contender while a command writes ``hostile.FLOOD_MIB``."""
    field = Field([entry], scratch)
    try:
        for contender in field.running.values():
            return flood_of(contender)
    except (Gone, Hung) as error:
        field.broken[entry.name] = str(error)
    finally:
        field.end()
    return Flood(0.0, 0.0, 0.0, 0.0, None, 0, hung=False, error=field.broken[entry.name])


def flood_of(contender: Contender) -> Flood:
    """One sandbox, one ``true``, the flood.

    Raises:
        Gone, Hung: there was no sandbox to begin with.
    """
    marker = f"{RUN}-{secrets.token_hex(6)}"
    contender.must("open", QUICK_S)
    contender.must("put", QUICK_S, path=PROGRAM)
    contender.must("run", QUICK_S, argv=["true"], timeout_s=10)
    before_mib = contender.peak_mib()
    argv = [contender.python, "hostile.py", "flood", marker]
    with Watch(contender.process.pid) as watch:
        reply, hung, took_s = timed(contender, argv, timeout_s=FLOOD_DEADLINE_S, cap_s=FLOOD_CAP_S)
    if hung:
        contender.kill()
    kill_marked(marker)
    return Flood(
        before_mib=before_mib,
        growth_mib=watch.own_mib - before_mib,
        children_mib=watch.children_mib,
        took_s=took_s,
        n_bytes=reply.get("n_bytes"),
        kept_chars=int(reply.get("kept_chars", 0)),
        hung=hung,
        error=str(reply.get("error", "")),
    )


class Watch:
    """Peak memory of a process and of its children, looked at twenty times a second until the block ends."""

    def __init__(self, pid: int) -> None:
        self.pid, self.own_mib, self.children_mib = pid, 0.0, 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        """A child that still has its parent's command line has not become another program yet."""
        own = command_line(self.pid)
        while True:
            last = self.over.is_set()
            self.own_mib = max(self.own_mib, peak_mib(self.pid))
            for child in children_of(self.pid):
                if command_line(child) not in (own, b""):
                    self.children_mib = max(self.children_mib, peak_mib(child))
            if last:
                return
            self.over.wait(0.05)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.over.set()
        self.thread.join()


def children_of(pid: int) -> list[int]:
    """Direct children, whichever thread started them."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, children.read_text().split())
        except OSError:  # the thread has just ended
            continue
    return found
