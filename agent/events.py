"""What a person who watches an episode is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One tool call, or a reply that had none."""

    step: int
    tool: str
    """Name of the tool; "reply" when the model called none."""
    line: str
    """What came of it, in one line."""
    duration_s: float
    ok: bool
