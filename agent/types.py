"""Values of the agent room."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xar_agent.jobs.types import SmokeReport
from xar_agent.sandbox.protocol import Patch

Outcome = Literal["submitted", "gave_up", "over_budget", "stuck", "failed"]
Origin = Literal["user", "seed", "explore", "exploit", "crossover"]


@dataclass(frozen=True, slots=True)
class Idea:
    """What to try, in plain language."""

    text: str
    env: str
    parents: tuple[str, ...] = ()
    origin: Origin = "user"
    epoch: int = 0

    @property
    def id(self) -> str:
        """Ten hex digits over the environment, the parents and the text."""
        parts = "\0".join((self.env, *self.parents, self.text.strip()))
        return hashlib.sha256(parts.encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the model calls of one episode used."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    """None when any call's price is unknown: unknown is never 0. The embedded model costs 0.0."""
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Implementation:
    """One episode's product. The patch so far is there whatever the outcome."""

    idea: Idea
    outcome: Outcome
    exit_reason: str
    patch: Patch
    tree: str
    smoke: SmokeReport | None
    trajectory: Path
    steps: int
    usage: Usage
    model: str
    duration_s: float
