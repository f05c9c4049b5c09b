"""What a batch may spend. The worst case is reserved before anything starts, so a budget is never exceeded.

Every reservation and every bill is one line on disk. What was reserved and never settled, because the command was
killed, counts at its worst case: nobody knows what it cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xar_agent.errors import BudgetReached, Interrupted
from xar_agent.store import append_line, read_lines

FILE_NAME = "ledger.jsonl"
WARN_AT = (0.5, 0.8)
"""Shares of a budget at which the user is told."""
WAIT_S = 0.2
"""How often a reservation that waits for others looks whether it was cancelled."""
ROUNDING = 1e-9
"""Sums of dollars and hours are floating-point numbers."""
HINT = "the same command with a larger budget and --run with the run's name goes on from there"


@dataclass(frozen=True, slots=True)
class Amount:
    """What something costs."""

    usd: float = 0.0
    tokens: int = 0
    """Input and output together."""
    gpu_hours: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.usd + other.usd, self.tokens + other.tokens, self.gpu_hours + other.gpu_hours)


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent over all commands of a run; None means no limit."""

    usd: float | None = None
    tokens: int | None = None
    gpu_hours: float | None = None

    def lacking(self, spent: Amount) -> str:
        """The first limit that this amount is over, in words, or ""."""
        for name, unit in (("usd", "USD"), ("tokens", "tokens"), ("gpu_hours", "GPU-hours")):
            limit = getattr(self, name)
            if limit is not None and getattr(spent, name) > limit * (1 + ROUNDING):
                return f"the budget of {limit:g} {unit} is used up"
        return ""

    def shares(self, spent: Amount) -> dict[str, float]:
        """Share of each limit that is used."""
        limits = {name: getattr(self, name) for name in ("usd", "tokens", "gpu_hours")}
        return {name: getattr(spent, name) / limit for name, limit in limits.items() if limit}


class Reservation:
    """A worst case that is set aside; its holder settles it with the bill."""

    def __init__(self, ledger: Ledger, number: int, worst: Amount) -> None:
        self._ledger = ledger
        self.number = number
        self.worst = worst
        self.settled = False

    def settle(self, bill: Amount) -> None:
        """Replace the worst case by what it really cost. The first call counts.

        Raises:
            StoreError: it cannot be recorded.
        """
        if not self.settled:
            self._ledger.settle(self, bill)
            self.settled = True


class Ledger:
    """The account of one run, shared by its threads."""

    def __init__(self, run_dir: Path, budget: Budget, *, on_warning: Callable[[str], None] | None = None) -> None:
        """Take up what earlier commands of the run have spent.

        Args:
            run_dir: the run's folder.
            budget: the limits.
            on_warning: hears when half, and when four fifths of a limit are used.

        Raises:
            StoreError: the record cannot be read.
        """
        self.budget = budget
        self._path = run_dir / FILE_NAME
        self._on_warning = on_warning
        self._turn = threading.Condition()
        self._open: dict[int, Amount] = {}
        """Reservations of this command by number."""
        self._next, self.spent = read_ledger(self._path)
        self._warned = {name: level_of(share) for name, share in budget.shares(self.spent).items()}

    @contextmanager
    def reserve(self, what: str, worst: Amount, *, cancel: threading.Event | None = None) -> Iterator[Reservation]:
        """Set a worst case aside while something runs; if it does not settle, the worst case is what it cost.

        Args:
            what: for the record.
            worst: the most that it can cost.
            cancel: ends the wait for others' reservations.

        Raises:
            BudgetReached: too little is left, and nothing that could still be settled would change that.
            Interrupted: it was cancelled while it waited.
            StoreError: it cannot be recorded.
        """
        reservation = self._open_reservation(what, worst, cancel)
        try:
            yield reservation
        finally:
            reservation.settle(reservation.worst)

    def _open_reservation(self, what: str, worst: Amount, cancel: threading.Event | None) -> Reservation:
        with self._turn:
            while True:
                if not self.budget.lacking(self.committed + worst):
                    return self._record_reservation(what, worst)
                short = self.budget.lacking(self.spent + worst)
                if short:
                    raise BudgetReached(short, HINT)
                if cancel is not None and cancel.is_set():
                    raise Interrupted("interrupted while waiting for the budget")
                self._turn.wait(WAIT_S)

    def _record_reservation(self, what: str, worst: Amount) -> Reservation:
        number, self._next = self._next, self._next + 1
        append_line(self._path, {"reserve": number, "what": what, **asdict(worst)}, fsync=True)
        self._open[number] = worst
        return Reservation(self, number, worst)

    def settle(self, reservation: Reservation, bill: Amount) -> None:
        """Book a bill; called by the reservation."""
        with self._turn:
            append_line(self._path, {"settle": reservation.number, **asdict(bill)}, fsync=True)
            del self._open[reservation.number]
            self.spent = self.spent + bill
            self._warn()
            self._turn.notify_all()

    @property
    def committed(self) -> Amount:
        """What is spent or set aside."""
        return sum(self._open.values(), self.spent)

    def left(self, name: str) -> float | None:
        """What is neither spent nor set aside of one limit; None when there is no limit."""
        limit = getattr(self.budget, name)
        return None if limit is None else max(limit - getattr(self.committed, name), 0)

    def _warn(self) -> None:
        for name, share in self.budget.shares(self.spent).items():
            if level_of(share) > self._warned.get(name, 0):
                self._warned[name] = level_of(share)
                if self._on_warning:
                    self._on_warning(f"{share:.0%} of the budget in {name.replace('_', '-')} is used")


def level_of(share: float) -> int:
    """How many of the warnings are due."""
    return sum(share >= level for level in WARN_AT)


def read_ledger(path: Path) -> tuple[int, Amount]:
    """The next reservation's number, and what was spent; what was never settled counts at its worst case."""
    booked: dict[int, Amount] = {}
    for line in read_lines(path) if path.exists() else []:
        booked[line["reserve"] if "reserve" in line else line["settle"]] = amount_of(line)
    return max(booked, default=-1) + 1, sum(booked.values(), Amount())


def amount_of(line: dict[str, Any]) -> Amount:
    """The amount in one line of the record."""
    return Amount(line["usd"], line["tokens"], line["gpu_hours"])
