"""Write an event and take it in, in one move: nothing is believed that is not on record."""

from __future__ import annotations

from typing import Any, Protocol

from xar_agent.agent.messages import ModelRequest, digest_of
from xar_agent.agent.state import State
from xar_agent.agent.trajectory import Event
from xar_agent.redact import redact_json


class EventSink(Protocol):
    """Where events go: a file, or a list during a replay."""

    def append(self, kind: str, **fields: Any) -> Event:
        """Keep one event and give it back as it was kept."""
        ...

    def sync(self) -> None:
        """A step is complete."""
        ...


class EventList:
    """Events in memory, masked as a file's would be."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, kind: str, **fields: Any) -> Event:
        """Keep one event."""
        masked = redact_json(fields)
        assert isinstance(masked, dict)
        seq = len(self.events)
        event = Event(seq, f"e{seq}", f"e{seq - 1}" if seq else None, "", "", kind, masked)
        self.events.append(event)
        return event

    def sync(self) -> None:
        """Nothing is buffered."""


class Recorder:
    """The one way by which an episode's state changes."""

    def __init__(self, sink: EventSink, state: State) -> None:
        self.sink = sink
        self.state = state

    def record(self, kind: str, **fields: Any) -> None:
        """Write the event, then apply what was written."""
        self.state.apply(self.sink.append(kind, **fields))

    def record_request(self, step: int, request: ModelRequest) -> None:
        """Hashes only: the messages are on record, and repeating them would make the file grow quadratically."""
        fresh = request.messages[self.state.hashed :]
        self.record(
            "llm_request",
            step=step,
            parameters=request.parameters(),
            n_messages=len(request.messages),
            new_message_hashes=[digest_of(message) for message in fresh],
            tools_hash=digest_of(request.tools),
            request_hash=request.digest(),
        )

    def sync(self) -> None:
        """A step is complete: what was written must survive a crash."""
        self.sink.sync()
