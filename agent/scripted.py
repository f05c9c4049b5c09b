"""Models that need no model: one that follows a script, one that repeats a recorded episode."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xar_agent.agent.messages import ModelProtocol, ModelReply, ModelRequest, ToolCall
from xar_agent.agent.state import reply_from
from xar_agent.agent.trajectory import Event, active_path
from xar_agent.errors import ConfigError, XarError


class RecordingOver(XarError):
    """The recorded episode has no further reply."""


@dataclass(frozen=True, slots=True)
class Case:
    """Replies for the requests in whose messages a pattern is found."""

    match: re.Pattern[str]
    replies: tuple[ModelReply, ...]


class ScriptedModel:
    """Gives a conversation its replies in order, whatever it is asked; then it gives up. Usable from several threads.

    It keeps no place of its own: the n-th reply goes to a request with n assistant messages, so that several
    conversations may share a script, and one that was interrupted goes on where it was.
    """

    protocol: ModelProtocol = "scripted"

    def __init__(
        self,
        replies: Sequence[ModelReply | Sequence[ToolCall]],
        *,
        name: str = "scripted",
        cases: Sequence[Case] = (),
    ) -> None:
        """A sequence of calls stands for a reply that makes them. The first case that matches replaces ``replies``."""
        self.name = name
        self.requests: list[ModelRequest] = []
        """What it was asked, for tests."""
        self._replies = tuple(
            r if isinstance(r, ModelReply) else ModelReply("", tuple(r), "tool_calls") for r in replies
        )
        self._cases = tuple(cases)

    @classmethod
    def from_file(cls, path: Path) -> ScriptedModel:
        """Read ``{"replies": [{"text": "...", "calls": [{"name": "...", "arguments": {...}}]}]}``.

        Beside or instead of "replies" there may be ``"cases": [{"match": "REGEX", "replies": [...]}]``. A reply may
        have a bill: "input_tokens", "output_tokens", "cost_usd".

        Raises:
            ConfigError: the file is missing or not of that form.
        """
        try:
            script = json.loads(path.read_text())
            cases = [scripted_case(entry) for entry in script.get("cases", [])]
            replies = scripted_replies(script["replies"] if not cases else script.get("replies", []))
        except OSError as error:
            raise ConfigError(f"cannot read the script {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
            hint = '{"replies": [{"calls": [{"name": "smoke_test", "arguments": {}}]}]}'
            raise ConfigError(f"{path} is no script of replies: {error!r}", f"it looks like {hint}") from error
        return cls(replies, name=f"scripted/{path.name}", cases=cases)

    def complete(self, request: ModelRequest) -> ModelReply:
        """The reply that is due; free, and without tokens, unless the script says otherwise."""
        self.requests.append(request)
        replies = self._replies_to(request)
        number = sum(message["role"] == "assistant" for message in request.messages)
        return free(replies[number]) if number < len(replies) else free(ModelReply("The script is over."))

    def highest_prices(self) -> tuple[float, float] | None:
        """USD a token of input and of output at most; None where a reply costs something and has no tokens."""
        replies = [*self._replies, *(reply for case in self._cases for reply in case.replies)]
        billed = [(r.cost_usd, r.input_tokens + r.output_tokens) for r in replies if r.cost_usd]
        if any(not tokens for _, tokens in billed):
            return None
        highest = max((cost / tokens for cost, tokens in billed), default=0.0)
        return highest, highest

    def _replies_to(self, request: ModelRequest) -> tuple[ModelReply, ...]:
        if not self._cases:
            return self._replies
        said = "\n".join(str(message.get("content") or "") for message in request.messages)
        return next((case.replies for case in self._cases if case.match.search(said)), self._replies)

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


def scripted_case(entry: dict[str, Any]) -> Case:
    """One case of a script."""
    return Case(re.compile(entry["match"], re.DOTALL), tuple(scripted_replies(entry["replies"])))


def scripted_replies(entries: Sequence[dict[str, Any]]) -> list[ModelReply]:
    """The replies of a script or of one of its cases."""
    return [scripted_reply(entry, number) for number, entry in enumerate(entries, start=1)]


def scripted_reply(entry: dict[str, Any], number: int) -> ModelReply:
    """One entry of a script."""
    calls = []
    for index, call in enumerate(entry.get("calls", []), start=1):
        arguments = call.get("arguments", {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(str(call.get("id") or f"call_{number}_{index}"), str(call["name"]), text))
    cost_usd = entry.get("cost_usd")
    return ModelReply(
        str(entry.get("text", "")),
        tuple(calls),
        "tool_calls" if calls else "stop",
        input_tokens=int(entry.get("input_tokens", 0)),
        output_tokens=int(entry.get("output_tokens", 0)),
        cost_usd=None if cost_usd is None else float(cost_usd),
        cost_source="unknown" if cost_usd is None else "scripted",
    )


def free(reply: ModelReply) -> ModelReply:
    """The reply without a bill, unless the script has one."""
    if reply.cost_usd is not None or reply.cost_source != "unknown":
        return reply
    return replace(reply, cost_usd=0.0, cost_source="scripted")
