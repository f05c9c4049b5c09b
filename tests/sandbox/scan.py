"""How tests look for the processes of a sandbox from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xar_agent.sandbox import Sandbox

OpenBox = Callable[..., Sandbox]


def alive(marker: str) -> list[int]:
    """Processes on this machine with the marker on their command line, zombies left out."""
    return [pid for pid, words in command_lines() if any(marker in word for word in words)]


def sleepers(marker: str) -> list[int]:
    """Only those that are ``sleep MARKER`` itself, not what starts it."""
    return [pid for pid, words in command_lines() if words == ["sleep", marker]]


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Every process with its words."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it ended while we looked
            yield int(folder.name), line.decode(errors="replace").split("\0")[:-1]


def gone_within(marker: str, seconds: float) -> bool:
    """Whether no process with the marker is left before the time is over."""
    return holds_within(lambda: not alive(marker), seconds)


def slept_within(marker: str, count: int, seconds: float) -> bool:
    """Whether so many sleepers show up before the time is over."""
    return holds_within(lambda: len(sleepers(marker)) == count, seconds)


def holds_within(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true before the time is over."""
    stop = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > stop:
            return False
        time.sleep(0.02)
    return True
