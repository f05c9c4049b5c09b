"""A command on its way from a back end to its supervisor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LOG_BYTES = 64 * 1024 * 1024
MAX_ARGUMENT_BYTES = 128 * 1024
"""Linux: MAX_ARG_STRLEN, 32 pages of 4 KiB, with the NUL at the end."""
MAX_ARGUMENTS_BYTES = 1 << 20
"""Linux allows a quarter of the stack limit, 2 MiB; half of it is for what is put around the command."""
POINTER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Launch:
    """A command as the supervisor starts it."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    """Handed to bubblewrap on a descriptor instead of its command line."""
    rlimits: Mapping[str, int] = field(default_factory=dict)
    cgroup: Mapping[str, Any] = field(default_factory=dict)
    rss_bytes: int | None = None
    """For the watchdog, where no cgroup bounds memory."""
    disk_bytes: int | None = None
    disk_roots: tuple[str, ...] = ()
    owner: int | None = None
    """User id that the command will have, where that is not ours: its streams are given to it."""
    own_processes: int = 0
    """Processes of the sandbox itself that are alive while the command is."""


def supervisor_job(
    launch: Launch, timeout_s: float, cpu_s: float | None, keep_bytes: int, *, merge: bool
) -> dict[str, object]:
    """What the supervisor is told; ``merge`` puts standard error into standard output."""
    return {
        "argv": list(launch.argv),
        "cwd": launch.cwd,
        "env": dict(launch.env),
        "arguments": list(launch.arguments),
        "rlimits": dict(launch.rlimits),
        "cgroup": dict(launch.cgroup),
        "rss_bytes": launch.rss_bytes,
        "disk_bytes": launch.disk_bytes,
        "disk_roots": list(launch.disk_roots),
        "own_processes": launch.own_processes,
        "owner": launch.owner,
        "wall_s": timeout_s,
        "cpu_s": cpu_s,
        "keep_bytes": keep_bytes,
        "log_bytes": LOG_BYTES,
        "merge": merge,
    }


def command_words(argv: Sequence[str]) -> tuple[str, ...]:
    """``argv`` as a tuple.

    Raises:
        ValueError: it is empty.
    """
    words = tuple(argv)
    if not words:
        raise ValueError("a command needs at least one word")
    return words


def why_unstartable(words: Sequence[str], cwd: str, env: Mapping[str, str]) -> str:
    """What keeps the kernel from starting a command with these words; empty when nothing does."""
    n_bytes = 0
    for part in (*words, cwd, *(f"{name}={value}" for name, value in env.items())):
        try:
            size = len(os.fsencode(part)) + 1
        except UnicodeEncodeError:
            return "an argument holds half of a surrogate pair, which is no text"
        if "\0" in part:
            return "an argument holds a NUL byte"
        if size > MAX_ARGUMENT_BYTES:
            return f"an argument is too long: {size} bytes, at most {MAX_ARGUMENT_BYTES}; put it in a file"
        n_bytes += size + POINTER_BYTES
    if n_bytes > MAX_ARGUMENTS_BYTES:
        return f"the arguments are too long: {n_bytes} bytes, at most {MAX_ARGUMENTS_BYTES}; put them in a file"
    return ""


def refusal(why: str) -> tuple[str, ...]:
    """A command that says ``why`` and ends as one that cannot be executed."""
    return ("/bin/sh", "-c", 'printf "%s\\n" "$1" >&2; exit 126', "sh", f"cannot start the command: {why}")
