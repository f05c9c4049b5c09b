"""What stands between the models of a batch and its budget: each request's worst case is reserved before it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from xar_agent.population.budget import Amount, Ledger, Reservation

Prices = tuple[float, float]
"""USD a token of input and of output."""


class BudgetMeter:
    """The ``Meter`` of a run's ledger."""

    def __init__(self, ledger: Ledger, prices: Prices, cancel: threading.Event) -> None:
        """``prices`` are (0, 0) for a model that costs nothing, and where no limit in USD is set."""
        self._ledger = ledger
        self._prices = prices
        self._cancel = cancel

    @contextmanager
    def call(self, input_bytes: int, max_tokens: int) -> Iterator[CallCharge]:
        """Hold the worst case of one request while it is under way; what is never settled was as dear as that.

        Raises:
            BudgetReached: it may not be sent.
            Interrupted: it was cancelled while it waited for others' reservations.
        """
        usd = self._prices[0] * input_bytes + self._prices[1] * max_tokens
        worst = Amount(usd=usd, tokens=input_bytes + max_tokens)
        with self._ledger.reserve("model", worst, cancel=self._cancel) as reserved:
            yield CallCharge(reserved)


class CallCharge:
    """The bill of one request."""

    def __init__(self, reserved: Reservation) -> None:
        self._reserved = reserved

    def settle(self, input_tokens: int, output_tokens: int, cost_usd: float | None) -> None:
        """Book what was answered; an unknown price counts at the worst case."""
        usd = self._reserved.worst.usd if cost_usd is None else cost_usd
        self._reserved.settle(Amount(usd=usd, tokens=input_tokens + output_tokens))
