"""What an episode knows of itself: a fold over its events, the same live, resumed and replayed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from xar_agent.agent.messages import Message, ModelReply, ToolCall
from xar_agent.agent.trajectory import Event
from xar_agent.agent.types import Usage

SAME_ACTION_LIMIT = 4
"""Equal call, equal result and equal files so often: it goes round in circles."""
SAME_ERROR_LIMIT = 3
BAD_REPLY_LIMIT = 3
"""Replies in a row without one call that could be run."""

BadReply = Literal["", "no_call", "malformed", "cut_off"]


@dataclass(slots=True)
class State:
    """Changed only by ``apply``, so that equal events give equal decisions."""

    messages: list[Message] = field(default_factory=list)
    """The conversation so far; it only grows."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    """Complete steps: a reply, its calls and their results."""
    tree: str = ""
    """Of the last complete step."""
    usage: Usage = Usage(cost_usd=0.0)
    hashed: int = 0
    """Messages whose hashes are on record already."""
    bad_replies: int = 0
    """In a row."""
    last_bad: BadReply = ""
    repeats: Counter[str] = field(default_factory=Counter)
    nudged: bool = False
    ended_by: str = ""
    """The tool that ended the episode."""
    judged: bool = True
    """False after a complete step, until something follows it: a crash may have kept what it meant off the record."""
    pending: list[tuple[str, str, str]] = field(default_factory=list)
    """Calls of the step under way: what was called, error code, what was shown."""

    def apply(self, event: Event) -> None:
        """Take one event in."""
        apply = getattr(self, f"on_{event.type}", None)
        if apply is not None:
            apply(event.data)

    def on_run_start(self, event: dict[str, Any]) -> None:
        """The first messages and the tools."""
        self.messages = list(event["messages"])
        self.tools = list(event["tools"])
        self.tree = event["tree"]

    def on_llm_request(self, event: dict[str, Any]) -> None:
        """Which messages need no hash any more."""
        self.judged = True
        self.hashed = event["n_messages"]

    def on_llm_response(self, event: dict[str, Any]) -> None:
        """The reply joins the conversation; its bill is added."""
        reply = reply_from(event)
        self.messages.append(history_message(reply, event["call_ids"]))
        self.usage = add_bill(self.usage, reply)
        self.last_bad = event["bad"]
        self.bad_replies = self.bad_replies + 1 if event["bad"] else 0

    def on_tool_call(self, event: dict[str, Any]) -> None:
        """Remembered until its result is there."""
        self.pending.append((f"{event['name']} {event['arguments']}", "", ""))

    def on_tool_result(self, event: dict[str, Any]) -> None:
        """The result joins the conversation, under its call's id."""
        called = self.pending[-1][0] if self.pending else ""
        if event["ends"]:
            self.ended_by = called.partition(" ")[0]
        self.pending[-1:] = [(called, event["error"], event["shown"])]
        self.messages.append({"role": "tool", "tool_call_id": event["call_id"], "content": event["shown"]})

    def on_context(self, event: dict[str, Any]) -> None:
        """Something the harness says to the model."""
        self.messages.append({"role": "user", "content": event["text"]})
        self.judged = True
        if event["reason"] == "nudge":
            self.nudged = True
            self.repeats.clear()
        if event["reason"] == "repair":
            self.nudged, self.bad_replies, self.last_bad, self.ended_by = False, 0, "", ""
            self.repeats.clear()

    def on_workspace(self, event: dict[str, Any]) -> None:
        """The step is complete: count what repeats itself."""
        self.judged = False
        self.tree = event["tree"]
        self.steps = event["step"]
        for called, error, shown in self.pending:
            self.repeats[json.dumps(["action", called, shown, self.tree])] += 1
            if error:
                self.repeats[json.dumps(["error", called.partition(" ")[0], error, shown])] += 1
        self.pending.clear()

    @property
    def going_in_circles(self) -> bool:
        """The same call with the same result four times, or the same error three times."""
        return any(
            n >= (SAME_ERROR_LIMIT if key.startswith('["error"') else SAME_ACTION_LIMIT)
            for key, n in self.repeats.items()
        )


def fold(events: Iterable[Event]) -> State:
    """The state after these events."""
    state = State()
    for event in events:
        state.apply(event)
    return state


def add_bill(usage: Usage, reply: ModelReply) -> Usage:
    """Usage with one more reply. A price that is unknown once makes the sum unknown."""
    known = usage.cost_usd is not None and reply.cost_usd is not None
    return Usage(
        usage.input_tokens + reply.input_tokens,
        usage.output_tokens + reply.output_tokens,
        (usage.cost_usd or 0.0) + (reply.cost_usd or 0.0) if known else None,
        usage.requests + reply.attempts,
    )


def unique_ids(calls: Iterable[ToolCall], step: int) -> list[str]:
    """An id for each call, in order: its own where it has one that is not taken."""
    ids: list[str] = []
    for index, call in enumerate(calls, start=1):
        wanted = call.id or f"call_{step}_{index}"
        ids.append(wanted if wanted not in ids else f"{wanted}_{index}")
    return ids


def history_message(reply: ModelReply, call_ids: list[str]) -> Message:
    """The reply as later requests carry it: ids are unique, and arguments are JSON whatever the model wrote."""
    message = reply.to_message()
    for entry, call_id in zip(message.get("tool_calls", []), call_ids, strict=True):
        entry["id"] = call_id
        if not is_json_object(entry["function"]["arguments"]):
            entry["function"]["arguments"] = "{}"  # several servers parse them again and fail on anything else
    return message


def is_json_object(text: str) -> bool:
    """True for the text of a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def reply_record(reply: ModelReply) -> dict[str, Any]:
    """The reply as an event's data."""
    return {
        "text": reply.text,
        "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in reply.tool_calls],
        "finish_reason": reply.finish_reason,
        "usage": {
            "input_tokens": reply.input_tokens,
            "output_tokens": reply.output_tokens,
            "cached_tokens": reply.cached_tokens,
            "reasoning_tokens": reply.reasoning_tokens,
        },
        "cost_usd": reply.cost_usd,
        "cost_source": reply.cost_source,
        "attempts": reply.attempts,
        "latency_s": round(reply.latency_s, 3),
        "raw": reply.raw,
    }


def reply_from(event: dict[str, Any]) -> ModelReply:
    """The reply that ``reply_record`` wrote."""
    return ModelReply(
        text=event["text"],
        tool_calls=tuple(ToolCall(c["id"], c["name"], c["arguments"]) for c in event["tool_calls"]),
        finish_reason=event["finish_reason"],
        **event["usage"],
        cost_usd=event["cost_usd"],
        cost_source=event["cost_source"],
        attempts=event["attempts"],
        latency_s=event["latency_s"],
        raw=event["raw"],
    )
