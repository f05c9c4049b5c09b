"""What an attack is: a small Python program, run inside a sandbox, that says BREACH where it got through.

A new attack is an entry in one of the tables (attacks_by_processes, attacks_by_use, attacks_on_the_host). It finds in
its surroundings: ``marker`` (its first argument, so that all its forks show it), ``host`` (what the test has set up:
see ``victim.Host.address_book``), ``libc``, ``breach(what)``, ``tries(what, act)`` and ``python``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from xar_agent.sandbox import Limits

TIGHT = Limits(memory_mib=256, processes=64, file_mib=32, open_files=256, disk_mib=64)
"""Of every attack, so that none takes long to reach its limits."""

PRELUDE = """
import ctypes, errno, json, os, resource, signal, socket, subprocess, sys, threading, time
marker, host, python = sys.argv[1], json.loads(sys.argv[2]), sys.executable
libc = ctypes.CDLL(None, use_errno=True)
def breach(*what): print("BREACH", *what, flush=True)
def tries(what, act, *arguments):
    try:
        found = act(*arguments)
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        return
    if found not in (False, -1):
        breach(what, repr(found)[:300])
def write(path, content="1"):
    with open(path, "w") as file:
        file.write(content)
def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=5)
    return done.returncode == 0 and done.stdout
def forks():
    try:
        return os.fork()
    except OSError:
        time.sleep(0.01)
"""
AT_ITS_DEADLINE = ("wall",)


@dataclass(frozen=True, slots=True)
class Attack:
    """One program and how it must end."""

    name: str
    code: str
    ends: tuple[str, ...] = ("",)
    """What may end it: "" is itself; "wall" its deadline, "memory" and "disk" its limits."""
    exits: int | None = 0
    """Exit code, where it ends itself; None: any."""
    deadline_s: float = 1.0
    done_within_s: float | None = None
    """Where it must not take its deadline."""
    stdin_bytes: int = 0

    def argv(self, python: str, marker: str, address_book: dict[str, Any]) -> list[str]:
        """The command."""
        return [python, "-c", PRELUDE + self.code, marker, json.dumps(address_book)]
