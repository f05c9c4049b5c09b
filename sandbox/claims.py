"""What a container and those who follow its commands tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xar_agent.sandbox.hijack import Hijacked


class KeeperGone(Exception):
    """The keeper has ended, and so has the container."""


@dataclass(eq=False, slots=True)
class Claim:
    """What belongs to one command: its first shell and all below it."""

    ends: float
    """On the monotonic clock; before it has started, when it must have ended at last."""
    shell: int = 0
    """Its pid inside; 0 while it starts."""
    era: int = 0
    """Which start of the container it runs in."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A command that the engine has been told to start."""

    id: str
    stream: Hijacked
    use: Mapping[str, Any]
    """What had been used in the container before."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """What ``clear`` found."""

    use: Mapping[str, Any]
    """What had been used in the container before."""
    found: int
    """Processes of the command besides its first shell."""
    empty: bool
    """Whether none of them is left; else the container must be ended."""
    dirty: bool
    """Whether something is kept in memory by no process."""
