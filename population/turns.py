"""One episode at a time for a model that serves only one, while other ideas train."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from xar_agent.agent.messages import ChatModel, ModelProtocol, ModelReply, ModelRequest
from xar_agent.errors import Interrupted

LOOK_S = 0.2
"""How often one that waits looks whether it was cancelled."""


class SituatedModel(ChatModel, Protocol):
    """A model that is told the idea before its first turn."""

    def begin(self, idea_text: str, files: Mapping[str, str]) -> None:
        """See ``Situated``."""
        ...


class TurnTaker:
    """A model that waits with its first request until no other episode is at work; closing it lets the next one in.

    An episode closes its model before it trains, so that one idea is implemented while another one trains.
    """

    def __init__(self, inner: SituatedModel, turn: threading.Lock, cancel: threading.Event) -> None:
        self._inner = inner
        self._turn = turn
        self._cancel = cancel
        self._has_turn = False
        self.name = inner.name
        self.protocol: ModelProtocol = inner.protocol

    def begin(self, idea_text: str, files: Mapping[str, str]) -> None:
        """Pass on what the episode is about."""
        self._inner.begin(idea_text, files)

    def complete(self, request: ModelRequest) -> ModelReply:
        """The model's answer, when it is this episode's turn.

        Raises:
            Interrupted: it was cancelled while it waited.
        """
        while not self._has_turn:
            self._has_turn = self._turn.acquire(timeout=LOOK_S)
            if self._cancel.is_set():
                self.close()
                raise Interrupted("interrupted while waiting for the model")
        return self._inner.complete(request)

    def close(self) -> None:
        """Let the next episode in. Calling twice is fine."""
        self._inner.close()
        if self._has_turn:
            self._has_turn = False
            self._turn.release()
