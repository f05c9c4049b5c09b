"""What a tool gives back: text for the model, a record for the trajectory, one line for a person."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of one tool call. An expected failure is one of these too, never an exception."""

    text: str
    """What the model is shown."""
    error: str = ""
    """Error code, or the class of a failed smoke test; empty when all went well."""
    summary: str = ""
    """One line for a person at a terminal."""
    full: str = ""
    """Where the whole output lies when ``text`` is only a part of it, relative to the workspace."""
    record: dict[str, Any] = field(default_factory=dict)
    """Exit codes, durations and the like, for the trajectory only: it may differ between equal runs."""
    ends: bool = False
    """The episode is over: the patch is submitted, or ready where nothing is submitted."""


def refusal(code: str, message: str, hint: str = "", **more: Any) -> Observation:
    """An expected failure, in the form that every tool uses."""
    body = {"error": code, "message": message, "hint": hint, **more}
    return Observation(json.dumps(body, ensure_ascii=False), code, f"{code}: {message}")


def cap_text(text: str, max_chars: int) -> str:
    """Head and tail of a text that is too long, with a line between them that says so."""
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
