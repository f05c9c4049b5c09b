"""Ctrl-C, SIGTERM and a closed terminal all end a command the same way: stop, record, exit 130."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from xar_agent.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALS_UNTIL_EXIT = 3
"""The first one stops and records, the second says so, the third leaves at once; sandboxes die with us in any case."""


def say(line: str) -> None:
    """A line on stderr from inside a signal handler, where Python's own buffers may be in use."""
    os.write(2, f"\n{line}\n".encode())


def under_nohup(signum: int) -> bool:
    """The user has asked that a closed terminal should not matter."""
    return signum == signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """While it lasts, a signal sets the event that is handed out and raises KeyboardInterrupt in the main thread.

    Worker threads see the event, the main thread unwinds; later signals do not disturb the unwinding.
    """
    cancel = threading.Event()
    seen = 0

    def stop(signum: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen >= SIGNALS_UNTIL_EXIT:
            os._exit(Interrupted.exit_code)
        first = not cancel.is_set()
        cancel.set()
        if first:
            say("stopping; what was done so far is recorded")
            raise KeyboardInterrupt
        say("still stopping; once more leaves at once")

    before = {signum: signal.signal(signum, stop) for signum in SIGNALS if not under_nohup(signum)}
    try:
        yield cancel
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
