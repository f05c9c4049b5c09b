"""Plain chat with the embedded model: one request, one answer, a JSON schema where one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from xar_agent.agent.local_server import Completion
from xar_agent.agent.messages import ModelProtocol, ModelReply, ModelRequest

MAX_TOKENS = 1024
"""Of an answer, where the request does not say: with a prompt of 3,000 tokens it still fits the window."""


class Chatter(Protocol):
    """What plain chat needs of a model server."""

    def complete(
        self,
        messages: Sequence[dict[str, str]],
        *,
        slot: int,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        temperature: float = 0.0,
    ) -> Completion:
        """One answer."""
        ...


class LocalChat:
    """A ``ChatModel`` without tools. Closing it frees nothing: the server belongs to whoever opened it."""

    protocol: ModelProtocol = "json"

    def __init__(self, name: str, server: Chatter, *, slot: int) -> None:
        self.name = name
        self._server = server
        self._slot = slot

    def complete(self, request: ModelRequest) -> ModelReply:
        """One answer; greedy unless the request has a temperature.

        Raises:
            ModelUnavailable: the local server cannot be started or stopped answering.
            ContextOverflow: the request does not fit its window.
        """
        messages = [{"role": str(m["role"]), "content": str(m.get("content") or "")} for m in request.messages]
        done = self._server.complete(
            messages,
            slot=self._slot,
            max_tokens=request.max_tokens or MAX_TOKENS,
            schema=schema_of(request.response_format),
            stop=request.stop or (),
            seed=request.seed or 0,
            temperature=request.temperature or 0.0,
        )
        return ModelReply(
            text=done.text,
            finish_reason=done.finish_reason,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            cached_tokens=done.cached_tokens,
            cost_usd=0.0,
            cost_source="local",
            latency_s=done.latency_s,
        )

    def close(self) -> None:
        """Nothing of its own to free."""


def schema_of(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """The schema of a ``response_format``; None when it has none."""
    schema = (response_format or {}).get("json_schema", {}).get("schema")
    return schema if isinstance(schema, dict) else None
