"""What feeds a training run and measures its budget: the host's token stream, or a folder and the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xar_agent.jobs.bench import Bench
from xar_agent.jobs.job_plan import DATA_FOLDER, SOCKET
from xar_agent.jobs.stream import TokenServer
from xar_agent.sandbox.protocol import Bind

Clock = Literal["tokens", "rollouts", "seconds"]


@dataclass(slots=True)
class Feed:
    """The data of one run, and its clock."""

    bind: Bind
    """What the program finds at ``XAR_DATA``."""
    budget: int
    clock: Clock
    server: TokenServer | None
    """None: a folder."""
    begun: float | None = None
    """When the program began, by ``time.monotonic``."""

    def begin(self) -> None:
        """The program is about to begin."""
        self.begun = time.monotonic()

    @property
    def tokens(self) -> int:
        """Served so far; 0 for a folder, where nobody counts."""
        return self.server.served if self.server else 0

    @property
    def since_begun_s(self) -> float:
        """Seconds since the program began; 0 before."""
        return 0.0 if self.begun is None else time.monotonic() - self.begun

    @property
    def trained_s(self) -> float:
        """Seconds since the first token was served; since the program began where its data is a folder."""
        return (self.server.used_s or 0.0) if self.server else self.since_begun_s

    @property
    def over_s(self) -> float:
        """Seconds since a budget of seconds ended; 0 before, and for other clocks."""
        return max(0.0, self.trained_s - self.budget) if self.clock == "seconds" else 0.0

    @property
    def used(self) -> float:
        """How much of the budget, in its unit."""
        return min(self.trained_s, self.budget) if self.clock == "seconds" else self.tokens


@contextmanager
def open_feed(
    bench: Bench,
    folder: Path,
    *,
    seed: int,
    budget: int,
    clock: Clock,
    on_request: Callable[[int], None] | None = None,
) -> Iterator[Feed]:
    """Serve a run's data until it has ended.

    Args:
        bench: whose data.
        folder: for the socket.
        seed: decides the order of a stream.
        budget: in units of the clock.
        clock: what is counted.
        on_request: called in another thread before each answer of a stream, with the number of answers so far.

    Raises:
        DataUnavailable: the data cannot be read.
    """
    if bench.preset.data == "folder":
        yield Feed(Bind(bench.data.split("train"), DATA_FOLDER), budget, clock, None)
        return
    kept: Literal["tokens", "seconds"] = "seconds" if clock == "seconds" else "tokens"
    with TokenServer(
        bench.train_tokens, budget=budget, seed=seed, clock=kept, folder=folder, on_request=on_request
    ) as server:
        yield Feed(Bind(server.path, SOCKET), budget, clock, server)
