"""What ``envs check`` says about one point of an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    point: str
    state: State
    text: str
    """What was seen."""
    advice: str = ""
    """What to do about it."""


def ok(point: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(point, "ok", text)


def warning(point: str, text: str, advice: str) -> Finding:
    """It works, but something is worth doing."""
    return Finding(point, "warning", text, advice)


def missing(point: str, text: str, advice: str) -> Finding:
    """Something is not there."""
    return Finding(point, "missing", text, advice)


def failed(point: str, text: str, advice: str) -> Finding:
    """Something is there and wrong."""
    return Finding(point, "failed", text, advice)


def passes(finding: Finding) -> bool:
    """Nothing has to be done about it."""
    return finding.state in ("ok", "warning")
