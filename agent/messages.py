"""What goes to a language model and what comes back, in the form of OpenAI's chat API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from xar_agent.errors import ModelUnavailable, XarError

Message = dict[str, Any]
"""One message of the chat API: role, content, and tool_calls or tool_call_id where it has them."""

ToolSchema = dict[str, Any]
"""One entry of the API's ``tools``: ``{"type": "function", "function": {name, description, parameters}}``."""

ModelProtocol = Literal["native", "json", "guided", "scripted", "recorded"]


class ContextOverflow(XarError):
    """The conversation no longer fits the model's context window; sending it again would not help."""


class ToolsRefused(XarError):
    """The server rejects requests that carry tools: such a model needs the JSON protocol."""


class RequestRefused(ModelUnavailable):
    """The server answers but rejects this very request: a parameter that it does not know, most of the time."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model asked for."""

    id: str
    name: str
    arguments: str
    """As the model wrote them: JSON if all went well, unchecked."""

    def to_message(self) -> dict[str, Any]:
        """Its form inside an assistant message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request. None means that the parameter is not sent at all."""

    messages: list[Message]
    tools: list[ToolSchema] = field(default_factory=list)
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    stop: list[str] | None = None

    def parameters(self) -> dict[str, Any]:
        """All but messages and tools, without what is not set."""
        names = ("max_tokens", "temperature", "seed", "response_format", "stop")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def digest(self) -> str:
        """sha256 over all that decides the answer; equal for equal requests in any process."""
        return digest_of({"messages": self.messages, "tools": self.tools, **self.parameters()})


@dataclass(frozen=True, slots=True)
class ModelReply:
    """One answer, with its bill."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    """ "stop", "tool_calls", or "length" when the answer was cut off by the token limit."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Part of ``input_tokens`` that the provider had in its cache."""
    reasoning_tokens: int = 0
    """Part of ``output_tokens`` that is not in ``text``."""
    cost_usd: float | None = None
    """None when the price is unknown, never 0 for that."""
    cost_source: str = "unknown"
    attempts: int = 1
    """HTTP requests that it took."""
    latency_s: float = 0.0
    raw: dict[str, Any] = field(default_factory=dict)
    """The provider's answer as JSON."""

    def to_message(self) -> Message:
        """The assistant message that later requests carry."""
        message: Message = {"role": "assistant", "content": self.text or None}
        if self.tool_calls:
            message["tool_calls"] = [call.to_message() for call in self.tool_calls]
        elif not self.text:
            message["content"] = ""  # null content without calls is refused by several servers
        return message


class ChatModel(Protocol):
    """Anything that answers a request: a hosted model, a local one, a script, a recording."""

    name: str
    """As the user named it."""
    protocol: ModelProtocol

    def complete(self, request: ModelRequest) -> ModelReply:
        """One answer.

        Raises:
            ModelUnavailable: nothing answers, or the key, the name or the URL is wrong; retries are over.
            ContextOverflow: the request is too long for this model.
            ToolsRefused: the server does not take tools.
        """
        ...

    def close(self) -> None:
        """Free what it holds. Calling twice is fine."""
        ...


@runtime_checkable
class Situated(Protocol):
    """A model that is told about the idea and the repository before its first turn."""

    def begin(self, idea_text: str, files: Mapping[str, str]) -> None:
        """Take in the idea and the text of each editable file, by path. A resumed episode begins again."""
        ...


def digest_of(value: object) -> str:
    """sha256 of a JSON value in one canonical spelling."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Charge(Protocol):
    """One request that the budget has room for."""

    def settle(self, input_tokens: int, output_tokens: int, cost_usd: float | None) -> None:
        """This is its bill; None: the price is unknown. The first call counts."""
        ...
