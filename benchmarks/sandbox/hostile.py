"""Runs inside a sandbox: ``python hostile.py CASE MARKER``. By the marker each process of it is found from outside."""

from __future__ import annotations

import os
import signal
import sys
import time

LIFE_S = 150.0
"""Longer than the harness waits for anyone, and short enough that nothing stays if the harness itself dies."""
FLOOD_MIB = 300
LINE = b"x" * 63 + b"\n"


def rest() -> None:
    """Do nothing for longer than anyone waits."""
    time.sleep(LIFE_S)


def deaf() -> None:
    """SIGTERM is ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rest()


def daemon() -> None:
    """A process in a session of its own, whose parent has ended, with no stream of ours; the command itself waits."""
    if in_new_session():
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
    rest()


def daemon_with_pipe() -> None:
    """The same, and it keeps the pipe that the output is read from."""
    in_new_session()
    rest()


def grandchild_with_pipe() -> None:
    """The command ends at once with exit code 0; a grandchild keeps the pipe."""
    if os.fork() == 0:
        if os.fork() == 0:
            rest()
        os._exit(0)


def stopped_child() -> None:
    """A child stops itself; the command waits for it."""
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        rest()
    os.waitpid(child, 0)


def flood() -> None:
    """Write ``FLOOD_MIB`` in lines of 64 bytes."""
    block = LINE * ((1 << 16) // len(LINE))
    for _ in range((FLOOD_MIB << 20) // len(block)):
        view = memoryview(block)
        while view:
            view = view[os.write(1, view) :]


def in_new_session() -> bool:
    """True in the grandchild, which leads nothing and belongs to nobody; False in the caller."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


CASES = {
    "sleep": rest,
    "sigterm_ignored": deaf,
    "daemon": daemon,
    "daemon_with_pipe": daemon_with_pipe,
    "grandchild_with_pipe": grandchild_with_pipe,
    "stopped_child": stopped_child,
}

if __name__ == "__main__":
    {**CASES, "flood": flood}[sys.argv[1]]()
