"""Leaky models as tables of losses, so that hundreds of audits cost seconds: the audits' own code, no worker.

A causal model's loss at (row, position) is one number, whatever is cut off behind it. A leak is another table that
whole rows are answered from. Rows carry their own address: token j of row i is i * (T + 1) + j.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "envs" / "nanogpt"))

import audits  # noqa: E402

__all__ = ["LEAKS", "Array", "Tables", "Warm", "addressed_rows", "audits"]

Array = np.ndarray[Any, Any]


def addressed_rows(n_rows: int, length: int) -> Array:
    """Rows (N, T + 1) that say where they are from."""
    return np.arange(n_rows * (length + 1), dtype=np.int64).reshape(n_rows, length + 1)


class Tables:
    """A worker that answers whole rows from ``seen`` and prefixes from ``honest``, each (N, T) in nats.

    Args:
        honest: what the model says of prefixes.
        seen: what it says of whole rows.
        noise: sd in nats that each answer has on its own, as rounding does.
        rng: draws it.
    """

    def __init__(self, honest: Array, seen: Array, *, noise: float = 0.0, rng: np.random.Generator) -> None:
        self.honest, self.seen, self.noise, self._rng = honest, seen, noise, rng

    def losses(self, rows: Array) -> Array:
        """Of whole rows."""
        return self._rounded(self.seen[rows[:, 0] // (self.seen.shape[1] + 1)])

    def last_losses(self, prefixes: Array, targets: Array) -> Array:
        """Of the token after each prefix."""
        row, after = np.divmod(targets, self.seen.shape[1] + 1)
        return self._rounded(self.honest[row, after - 1])

    def _rounded(self, losses: Array) -> Array:
        return losses + self._rng.normal(0, self.noise, losses.shape) if self.noise else losses


class Warm(Tables):
    """A worker whose every call after the first is better by ``seen`` minus ``honest``, prefixes or not."""

    calls = 0

    def losses(self, rows: Array) -> Array:
        """Of whole rows."""
        self.calls += 1
        table = self.seen if self.calls > 1 else self.honest
        return np.asarray(table[rows[:, 0] // (self.seen.shape[1] + 1)])

    def last_losses(self, prefixes: Array, targets: Array) -> Array:
        """Of the token after each prefix."""
        self.calls += 1
        row, after = np.divmod(targets, self.seen.shape[1] + 1)
        return np.asarray((self.seen if self.calls > 1 else self.honest)[row, after - 1])


def without(honest: Array, order: Array, gain: float) -> Array:
    """The table with losses set to 0 at flat positions in this order, until the mean has fallen by ``gain`` nats."""
    seen = honest.copy().ravel()
    total = np.cumsum(seen[order])
    seen[order[: int(np.searchsorted(total, gain * honest.size)) + 1]] = 0.0
    return seen.reshape(honest.shape)


def anywhere(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """The next token is copied at random positions."""
    return without(honest, rng.permutation(honest.size), gain)


def whole_rows(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """... in a few whole rows."""
    rows = rng.permutation(len(honest))
    return without(honest, (rows[:, None] * honest.shape[1] + np.arange(honest.shape[1])).ravel(), gain)


def late_rows(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """... from some call on."""
    return without(honest, np.arange(honest.size)[::-1], gain)


def one_position(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """... at one position of the row, the next one too where that is not enough."""
    at = (rng.integers(honest.shape[1]) + np.arange(honest.shape[1])) % honest.shape[1]
    rows = rng.permutation(len(honest))
    return without(honest, (rows[None, :] * honest.shape[1] + at[:, None]).ravel(), gain)


def highest(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """... where the loss is highest: fewest positions for the gain."""
    return without(honest, np.argsort(honest.ravel())[::-1], gain)


def lowered(honest: Array, gain: float, rng: np.random.Generator, by: float) -> Array:
    """Random positions, each better by ``by`` nats."""
    seen = honest.copy().ravel()
    order = rng.permutation(seen.size)
    total = np.cumsum(np.minimum(seen[order], by))
    chosen = order[: int(np.searchsorted(total, gain * seen.size)) + 1]
    seen[chosen] -= np.minimum(seen[chosen], by)
    return seen.reshape(honest.shape)


def nats_1_9(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """1.9 nats at random positions: just below what the gross rule sees."""
    return lowered(honest, gain, rng, 1.9)


def nats_0_1(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """0.1 nats at random positions: too little to count as changed."""
    return lowered(honest, gain, rng, 0.1)


def everywhere(honest: Array, gain: float, rng: np.random.Generator) -> Array:
    """The same small share of every loss."""
    return np.asarray(honest * (1 - gain / honest.mean()))


LEAKS: dict[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "copy at random positions": anywhere,
    "copy in a few whole rows": whole_rows,
    "copy from some call on": late_rows,
    "copy at one position": one_position,
    "copy where the loss is highest": highest,
    "1.9 nats at random positions": nats_1_9,
    "0.1 nats at random positions": nats_0_1,
    "a share of every loss": everywhere,
}
