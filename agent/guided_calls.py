"""The small model's calls behind one turn of the guided policy, and their bill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from xar_agent.agent.guided_prompts import Chat
from xar_agent.agent.local_server import Completion
from xar_agent.agent.messages import ModelReply, ToolCall, digest_of


class Answerer(Protocol):
    """What the policy needs of a model server."""

    def complete(
        self,
        messages: Sequence[dict[str, str]],
        *,
        slot: int,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        stop: Sequence[str] = (),
    ) -> Completion:
        """One greedy answer."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Calls:
    """The calls of one turn, in order, as they go into the trajectory."""

    def __init__(self, server: Answerer) -> None:
        self._server = server
        self._done: list[Completion] = []
        self._records: list[dict[str, Any]] = []

    def ask(
        self,
        purpose: str,
        chat: Chat,
        *,
        slot: int,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        stop: Sequence[str] = (),
    ) -> str:
        """The model's answer to the chat."""
        done = self._server.complete(chat, slot=slot, max_tokens=max_tokens, schema=schema, stop=stop)
        self._done.append(done)
        self._records.append(
            {
                "purpose": purpose,
                "prompt_sha256": digest_of(chat),
                "question": chat[-1]["content"],  # what stands before it is in the prompt files, whose digests are kept
                "answer": done.text,
                "finish_reason": done.finish_reason,
                "input_tokens": done.input_tokens,
                "output_tokens": done.output_tokens,
                "latency_s": round(done.latency_s, 3),
            }
        )
        return done.text

    def reply(self, text: str, call: ToolCall | None) -> ModelReply:
        """The turn as the loop sees it."""
        return ModelReply(
            text=text,
            tool_calls=(call,) if call else (),
            finish_reason="tool_calls" if call else "stop",
            input_tokens=sum(done.input_tokens for done in self._done),
            output_tokens=sum(done.output_tokens for done in self._done),
            cached_tokens=sum(done.cached_tokens for done in self._done),
            cost_usd=0.0,
            cost_source="local",
            attempts=len(self._done),
            latency_s=sum(done.latency_s for done in self._done),
            raw={"guided": list(self._records)},
        )
