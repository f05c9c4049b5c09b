"""What has happened in an episode so far, read back from the messages of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_PROBLEM_CHARS = 400


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call and what came of it."""

    name: str
    arguments: dict[str, Any]
    result: str


def read_steps(messages: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Every answered tool call, in order."""
    calls: dict[str, tuple[str, dict[str, Any]]] = {}
    steps: list[Step] = []
    for message in messages:
        for call in message.get("tool_calls") or []:
            function = call["function"]
            calls[call["id"]] = (function["name"], read_object(function["arguments"]))
        if message.get("role") == "tool" and message.get("tool_call_id") in calls:
            name, arguments = calls[message["tool_call_id"]]
            steps.append(Step(name, arguments, str(message.get("content") or "")))
    return steps


def later_words(messages: Sequence[Mapping[str, Any]]) -> str:
    """What was said after the last tool result: the log of a full run that crashed, or a nudge."""
    last = messages[-1] if messages else {}
    answered = any(message.get("role") == "tool" for message in messages)
    return str(last.get("content") or "") if answered and last.get("role") == "user" else ""


def read_object(text: str) -> dict[str, Any]:
    """A JSON object, {} when it is something else."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def refusal_of(result: str) -> str:
    """Error code and message of a refused call, "" when it was carried out."""
    body = read_object(result)
    return f"{body['error']}: {body.get('message', '')}" if body.get("error") else ""


def smoke_problem(result: str, files: Mapping[str, str]) -> str:
    """Why the smoke test failed, with the line of code that it points at; "" when it passed."""
    body = read_object(result)
    if body.get("passed") is True:
        return ""
    reason = str(body.get("reason") or body.get("message") or result)[:MAX_PROBLEM_CHARS]
    lines = files.get(str(body.get("file")), "").split("\n")
    number = body.get("line")
    if isinstance(number, int) and 0 < number <= len(lines) and lines[number - 1].strip():
        return f"when it runs, `{lines[number - 1].strip()}` fails: {reason}"
    return f"when it runs, it fails: {reason}"
