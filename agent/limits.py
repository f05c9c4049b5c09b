"""What an episode may use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from xar_agent.agent.state import State
from xar_agent.errors import BudgetReached, Interrupted


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """None means no limit."""

    max_steps: int = 40
    budget_usd: float | None = None
    budget_tokens: int | None = None
    """Input and output together, over all calls."""
    wall_s: float | None = None
    """Seconds from the start, or from the resumption."""


class Meter:
    """Compares what was used with what may be."""

    def __init__(self, limits: EpisodeLimits, state: State) -> None:
        self.limits = limits
        self.state = state
        self.started = time.monotonic()

    def reached(self) -> str:
        """Which limit is reached, in words, or "". A budget in USD is reached as soon as a price is unknown."""
        limits, usage = self.limits, self.state.usage
        if limits.budget_usd is not None:
            if usage.cost_usd is None:
                return "the model's price is unknown, so a budget in USD cannot be kept: use a token budget"
            if usage.cost_usd >= limits.budget_usd:
                return f"budget of {limits.budget_usd:g} USD reached ({usage.cost_usd:.4f} USD)"
        tokens = usage.input_tokens + usage.output_tokens
        if limits.budget_tokens is not None and tokens >= limits.budget_tokens:
            return f"budget of {limits.budget_tokens} tokens reached ({tokens})"
        if limits.wall_s is not None and time.monotonic() - self.started >= limits.wall_s:
            return "the time budget is used up"
        return ""


@contextmanager
def deadline(cancel: threading.Event, wall_s: float | None) -> Iterator[None]:
    """Set the event when the time is over; None means no limit. For what has no limit of its own, such as training.

    Raises:
        BudgetReached: the work ended because it was.
    """
    over = threading.Event()

    def end() -> None:
        over.set()
        cancel.set()

    timer = threading.Timer(wall_s or 0, end)
    timer.daemon = True
    if wall_s is not None:
        timer.start()
    try:
        yield
    except Interrupted as error:
        if not over.is_set():
            raise
        hint = "the same command with a larger budget and --run with the run's name goes on from there"
        raise BudgetReached("the time budget is used up", hint) from error
    finally:
        timer.cancel()
