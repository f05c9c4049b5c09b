"""Latency, start and deadlines, each over all contenders together."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contender import HERE, Contender, Entry, Gone, Hung, kill_marked, marked

DEADLINE_S = 2
SETTLE_S = 1.0
"""After the return, before survivors are counted."""
STAGGER_S = 0.5
"""Between the contenders' commands of one case, so that they do not all start and end at the same moment."""
QUICK_S = 30.0
"""Cap for what takes milliseconds."""
WARM_UP = 3
PROGRAM = str(HERE / "hostile.py")
RUN = f"xar-bench-{secrets.token_hex(6)}"
"""On every hostile command line of this run."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One hostile command with a deadline of ``DEADLINE_S``."""

    elapsed_s: float
    """Until the call returned; the cap when it did not."""
    overshoot_s: float
    hung: bool
    survivors: int
    """Of its processes, ``SETTLE_S`` after the return, or after the cap, when a contender that hangs is still there."""
    timed_out: bool
    next_right: bool
    """``echo ok`` in the same sandbox said ok."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """One sandbox from nothing to nothing, milliseconds."""

    open_ms: float
    first_ms: float
    """First ``true``."""
    close_ms: float


class Field:
    """Contenders that take turns; one that fails leaves, and its reason stays."""

    def __init__(self, entries: Sequence[Entry], scratch: Path) -> None:
        self.running: dict[str, Contender] = {}
        self.broken: dict[str, str] = {}
        for entry in entries:
            try:
                self.running[entry.name] = Contender(entry, scratch)
            except (Gone, Hung) as error:
                self.broken[entry.name] = str(error)

    def turn(self, i: int, work: Callable[[str, Contender], None]) -> None:
        """``work`` for each; who goes first moves on by one each turn."""
        for name in rotated(list(self.running), i):
            try:
                work(name, self.running[name])
            except (Gone, Hung) as error:
                self.broken[name] = str(error)
                self.running.pop(name).end()

    def end(self) -> None:
        """End all."""
        for contender in self.running.values():
            contender.end()


def asking(verb: str) -> Callable[[str, Contender], None]:
    """Work that is one request."""

    def work(_name: str, contender: Contender) -> None:
        contender.must(verb, QUICK_S)

    return work


def latencies(field: Field, n: int) -> dict[str, list[float]]:
    """Milliseconds of ``true``, round-robin."""
    times: dict[str, list[float]] = {name: [] for name in field.running}

    def once(name: str, contender: Contender) -> None:
        reply = contender.must("run", QUICK_S, argv=["true"], timeout_s=10)
        if reply["exit_code"] != 0:
            raise Gone(f"true ended with {reply['exit_code']}")
        times[name].append(reply["took_s"] * 1000)

    field.turn(0, asking("open"))
    for i in range(WARM_UP + n):
        field.turn(i, once)
    field.turn(0, asking("close"))
    return {name: values[WARM_UP:] for name, values in times.items()}


def starts(field: Field, n: int) -> dict[str, list[Start]]:
    """Sandboxes made and taken down, round-robin, the first of each dropped."""
    found: dict[str, list[Start]] = {name: [] for name in field.running}

    def once(name: str, contender: Contender) -> None:
        asked = ({"verb": "open"}, {"verb": "run", "argv": ["true"], "timeout_s": 10}, {"verb": "close"})
        replies = [contender.must(cap_s=QUICK_S, **words) for words in asked]
        found[name].append(Start(*(reply["took_s"] * 1000 for reply in replies)))

    for i in range(n + 1):
        field.turn(i, once)
    return {name: values[1:] for name, values in found.items()}


def rotated(names: Sequence[str], i: int) -> list[str]:
    """The same names, another one first."""
    cut = i % len(names)
    return [*names[cut:], *names[:cut]]


def attempts(entries: Sequence[Entry], case: str, *, n: int, cap_s: float, scratch: Path) -> dict[str, list[Attempt]]:
    """One case for all contenders side by side, so that hanging ones are waited for once."""
    field = Field(entries, scratch)
    with ThreadPoolExecutor(len(entries)) as pool:
        futures = {
            name: pool.submit(attempts_of, contender, case, n=n, cap_s=cap_s, wait_s=i * STAGGER_S)
            for i, (name, contender) in enumerate(field.running.items())
        }
        found = {name: future.result() for name, future in futures.items()}
    return found | {name: [no_attempt(why)] for name, why in field.broken.items()}


def attempts_of(contender: Contender, case: str, *, n: int, cap_s: float, wait_s: float) -> list[Attempt]:
    """Up to ``n`` attempts of one contender; one that hangs, or ends its contender, is the last."""
    found: list[Attempt] = []
    time.sleep(wait_s)
    try:
        while len(found) < n and contender.process.poll() is None:
            found.append(attempt(contender, case, f"{RUN}-{secrets.token_hex(6)}", cap_s))
    except (Gone, Hung) as error:
        found.append(no_attempt(str(error)))
    finally:
        contender.end()
    return found


def no_attempt(why: str) -> Attempt:
    """There was not even a sandbox."""
    return Attempt(0.0, 0.0, hung=False, survivors=0, timed_out=False, next_right=False, error=why)


def attempt(contender: Contender, case: str, marker: str, cap_s: float) -> Attempt:
    """A fresh sandbox, the case, a count of what is left, an honest command, and our own clean-up."""
    contender.must("open", QUICK_S)
    contender.must("put", QUICK_S, path=PROGRAM)
    argv = [contender.python, "hostile.py", case, marker]
    reply, hung, elapsed_s = timed(contender, argv, timeout_s=DEADLINE_S, cap_s=cap_s)
    time.sleep(SETTLE_S)
    survivors = len(marked(marker))
    if hung:
        contender.kill()
    next_right = says_ok(contender)
    kill_marked(marker)
    closes(contender)
    return Attempt(
        elapsed_s=elapsed_s,
        overshoot_s=max(elapsed_s - DEADLINE_S, 0.0),
        hung=hung,
        survivors=survivors,
        timed_out=bool(reply.get("timed_out")),
        next_right=next_right,
        error=str(reply.get("error", "")),
    )


def timed(
    contender: Contender, argv: Sequence[str], *, timeout_s: int, cap_s: float
) -> tuple[dict[str, Any], bool, float]:
    """Reply, whether it hung, and seconds."""
    began = time.monotonic()
    try:
        reply = contender.ask("run", cap_s, argv=list(argv), timeout_s=timeout_s)
    except (Hung, Gone) as error:
        return {"error": str(error)}, isinstance(error, Hung), time.monotonic() - began
    return reply, False, float(reply["took_s"])


def says_ok(contender: Contender) -> bool:
    """Whether the sandbox still works."""
    try:
        reply = contender.ask("run", QUICK_S, argv=["echo", "ok"], timeout_s=5)
    except (Hung, Gone):
        contender.kill()  # a late reply must not be taken for the next one's
        return False
    return bool(reply.get("exit_code") == 0 and reply["output"].strip() == "ok")


def closes(contender: Contender) -> None:
    """Take the sandbox down; a contender that cannot is ended."""
    try:
        contender.ask("close", QUICK_S)
    except (Hung, Gone):
        contender.kill()
