"""The loop of every adapter: one JSON request a line on stdin, one JSON reply a line on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SHOWN = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What a library said about one command."""

    exit_code: int | None
    output: str
    timed_out: bool
    n_bytes: int | None = None
    """All that the command wrote, where the library counts it."""


class Adapter(Protocol):
    """One library's sandbox in four verbs."""

    about: str
    """Name and version, and what is switched on."""
    python: str
    """Interpreter that commands use."""

    def open(self) -> None:
        """Make a sandbox that takes commands."""
        ...

    def put(self, name: str, text: str) -> None:
        """Write a file where commands run."""
        ...

    def run(self, argv: Sequence[str], timeout_s: float) -> Answer:
        """Run one command, and what the library's own callers do after a time-out."""
        ...

    def close(self) -> None:
        """Take the sandbox down."""
        ...


def serve(adapter: Adapter) -> None:
    """Answer until stdin ends. What the library prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    say(replies, {"about": adapter.about, "python": adapter.python})
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        try:
            reply = perform(adapter, **request)
        except Exception as error:  # a library's failure is a figure of this benchmark, whatever its class
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        say(replies, {"took_s": time.perf_counter() - began, **reply})


def say(replies: Any, reply: dict[str, Any]) -> None:
    """One line."""
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def perform(adapter: Adapter, *, verb: str, **words: Any) -> dict[str, Any]:
    """Carry out one request."""
    if verb == "open":
        adapter.open()
    elif verb == "put":
        path = Path(words["path"])
        adapter.put(path.name, path.read_text())
    elif verb == "run":
        began = time.perf_counter()
        answer = adapter.run(words["argv"], words["timeout_s"])
        took_s = time.perf_counter() - began  # without what follows here
        return {
            "exit_code": answer.exit_code,
            "timed_out": answer.timed_out,
            "n_bytes": answer.n_bytes,
            "output": answer.output[:SHOWN],
            "kept_chars": len(answer.output),
            "took_s": took_s,
        }
    elif verb == "close":
        adapter.close()
    return {}
