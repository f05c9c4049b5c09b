"""Models that need no model: one that follows a script, one that repeats a recorded episode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xar_agent.agent.messages import ModelProtocol, ModelReply, ModelRequest, ToolCall
from xar_agent.agent.state import reply_from
from xar_agent.agent.trajectory import Event, active_path
from xar_agent.errors import ConfigError, XarError


class RecordingOver(XarError):
    """The recorded episode has no further reply."""


class ScriptedModel:
    """Gives its replies in order, whatever it is asked; then it gives up. For tests, demonstrations and baselines."""

    protocol: ModelProtocol = "scripted"

    def __init__(self, replies: Sequence[ModelReply | Sequence[ToolCall]], *, name: str = "scripted") -> None:
        """A sequence of calls stands for a reply that makes them."""
        self.name = name
        self.requests: list[ModelRequest] = []
        """What it was asked, for tests."""
        self._replies = [r if isinstance(r, ModelReply) else ModelReply("", tuple(r), "tool_calls") for r in replies]

    @classmethod
    def from_file(cls, path: Path) -> ScriptedModel:
        """Read ``{"replies": [{"text": "...", "calls": [{"name": "...", "arguments": {...}}]}]}``.

        Raises:
            ConfigError: the file is missing or not of that form.
        """
        try:
            entries = json.loads(path.read_text())["replies"]
            replies = [scripted_reply(entry, number) for number, entry in enumerate(entries, start=1)]
        except OSError as error:
            raise ConfigError(f"cannot read the script {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            hint = '{"replies": [{"calls": [{"name": "smoke_test", "arguments": {}}]}]}'
            raise ConfigError(f"{path} is no script of replies: {error!r}", f"it looks like {hint}") from error
        return cls(replies, name=f"scripted/{path.name}")

    def complete(self, request: ModelRequest) -> ModelReply:
        """The next reply; free, and without tokens."""
        self.requests.append(request)
        number = len(self.requests) - 1
        reply = self._replies[number] if number < len(self._replies) else ModelReply("The script is over.")
        return free(reply)

    def close(self) -> None:
        """Nothing to free."""


class RecordedModel:
    """Gives the replies of a recorded episode and notes where it was asked something else."""

    protocol: ModelProtocol = "recorded"

    def __init__(self, events: Sequence[Event]) -> None:
        path = active_path(events)
        start = next((e.data for e in path if e.type == "run_start"), {})
        self.name = str(start.get("model", {}).get("name", "recorded"))
        self.mismatches: list[int] = []
        """Numbers of the requests, from 1, whose hash differs from the recorded one."""
        self._hashes = [event.data["request_hash"] for event in path if event.type == "llm_request"]
        self._replies = [reply_from(event.data) for event in path if event.type == "llm_response"]
        self.allowed = len(self._replies)
        """How many replies it may give in all."""
        self._given = 0

    def complete(self, request: ModelRequest) -> ModelReply:
        """The recorded reply.

        Raises:
            RecordingOver: there is none left.
        """
        if self._given >= min(self.allowed, len(self._replies)):
            raise RecordingOver(f"the recording ends after {self._given} replies")
        if request.digest() != self._hashes[self._given]:
            self.mismatches.append(self._given + 1)
        self._given += 1
        return self._replies[self._given - 1]

    def close(self) -> None:
        """Nothing to free."""


def scripted_reply(entry: dict[str, Any], number: int) -> ModelReply:
    """One entry of a script."""
    calls = []
    for index, call in enumerate(entry.get("calls", []), start=1):
        arguments = call.get("arguments", {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(str(call.get("id") or f"call_{number}_{index}"), str(call["name"]), text))
    return ModelReply(str(entry.get("text", "")), tuple(calls), "tool_calls" if calls else "stop")


def free(reply: ModelReply) -> ModelReply:
    """The reply without a bill, unless the script has one."""
    if reply.cost_usd is not None or reply.cost_source != "unknown":
        return reply
    fields = {name: getattr(reply, name) for name in ModelReply.__dataclass_fields__}
    return ModelReply(**{**fields, "cost_usd": 0.0, "cost_source": "scripted"})
