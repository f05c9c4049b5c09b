"""A meter for tests: room for so many requests, and every bill kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from xar_agent.errors import BudgetReached


@dataclass
class Till:
    """A meter with room for so many requests; keeps each bill."""

    room: int = 99
    asked: list[tuple[int, int]] = field(default_factory=list)
    bills: list[tuple[int, int, float | None]] = field(default_factory=list)

    @contextmanager
    def call(self, input_bytes: int, max_tokens: int) -> Iterator[Till]:
        if len(self.asked) >= self.room:
            raise BudgetReached("the tokens are used up")
        self.asked.append((input_bytes, max_tokens))
        yield self

    def settle(self, input_tokens: int, output_tokens: int, cost_usd: float | None) -> None:
        self.bills.append((input_tokens, output_tokens, cost_usd))
