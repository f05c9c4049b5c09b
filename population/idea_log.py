"""Replies of the ideator on record: one that was paid for once is never asked for again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from xar_agent.agent.messages import ModelReply, ModelRequest
from xar_agent.agent.state import reply_from, reply_record
from xar_agent.redact import redact, redact_json
from xar_agent.store import append_line, read_lines


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server did not take the request; asking again would not help."""

    kind: str
    """``format``: it takes no ``response_format``; ``overflow``: the request is too long for the model."""
    message: str


class ReplyLog:
    """One proposal's requests and replies, a line each, in a file that only grows.

    A reply belongs to the digest of its request, and among equal requests to the same place in their order.
    """

    def __init__(self, path: Path) -> None:
        """Read what is on record. A torn last line does not count.

        Raises:
            StoreError: the file cannot be read, or another line is damaged.
        """
        self._path = path
        self._recorded: dict[tuple[str, int], dict[str, Any]] = {}
        self._asked: Counter[str] = Counter()
        for line in read_lines(path) if path.exists() else []:
            self._recorded[line["request"], line["ordinal"]] = line

    def take(self, request: ModelRequest) -> ModelReply | Refusal | None:
        """The recorded answer to the next request of this digest, if there is one."""
        line = self._recorded.get(self._key(request))
        if line is None:
            return None
        self._asked[request.digest()] += 1
        refused = line.get("refused")
        return Refusal(refused["kind"], refused["message"]) if refused else reply_from(line["reply"])

    def add_reply(self, request: ModelRequest, reply: ModelReply) -> ModelReply:
        """Put a reply on record; what was written is given back, with secrets masked.

        Raises:
            StoreError: it cannot be written.
        """
        record = cast("dict[str, Any]", redact_json(reply_record(replace(reply, raw={}))))
        self._append(request, {"reply": record})
        return reply_from(record)

    def add_refusal(self, request: ModelRequest, refusal: Refusal) -> Refusal:
        """Put a refusal on record.

        Raises:
            StoreError: it cannot be written.
        """
        masked = Refusal(refusal.kind, redact(refusal.message))
        self._append(request, {"refused": {"kind": masked.kind, "message": masked.message}})
        return masked

    def _key(self, request: ModelRequest) -> tuple[str, int]:
        digest = request.digest()
        return digest, self._asked[digest]

    def _append(self, request: ModelRequest, answer: dict[str, Any]) -> None:
        digest, ordinal = self._key(request)
        self._asked[digest] += 1
        said = redact_json(new_messages(request))
        append_line(self._path, {"request": digest, "ordinal": ordinal, "messages": said, **answer}, fsync=True)


def new_messages(request: ModelRequest) -> list[dict[str, Any]]:
    """What the request says after the model's last answer: earlier lines have the rest."""
    for index in range(len(request.messages) - 1, -1, -1):
        if request.messages[index]["role"] == "assistant":
            return request.messages[index + 1 :]
    return request.messages


def replies_in(path: Path) -> list[ModelReply]:
    """Every reply on record of one proposal: what it was paid for.

    Raises:
        StoreError: the file cannot be read.
    """
    return [reply_from(line["reply"]) for line in (read_lines(path) if path.exists() else []) if "reply" in line]
