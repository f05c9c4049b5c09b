"""A command on its way from a back end to its supervisor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LOG_BYTES = 64 * 1024 * 1024


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
    """``argv`` as a tuple, checked.

    Raises:
        ValueError: it is empty or holds a NUL byte.
    """
    words = tuple(argv)
    if not words or any("\0" in word for word in words):
        raise ValueError("a command needs at least one word, and no NUL bytes")
    return words
