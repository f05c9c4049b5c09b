"""A log-linear n-gram model of characters: what it computes, and how a checkpoint becomes a function.

The logits at a position are the sum of one weight row per context: the last 0, 1, ... ORDER characters.
Shapes: B rows, T characters a row, V = VOCAB_SIZE.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

VOCAB_SIZE = 28  # a-z, space, full stop
ORDER = 2  # characters of context
INIT_STD = 0.1


def contexts(row: Sequence[int], t: int) -> list[str]:
    """Names of the contexts that end at position t, shortest first: "", "4", "19 4", ..."""
    first = max(0, t + 1 - ORDER)
    last = [str(token) for token in row[first : t + 1]]
    return [" ".join(last[len(last) - n :]) for n in range(len(last) + 1)]


def softmax(logits: list[float]) -> list[float]:
    """Probabilities (V,)."""
    largest = max(logits)
    powers = [math.exp(x - largest) for x in logits]
    total = sum(powers)
    return [p / total for p in powers]


class NgramModel:
    """Weight rows by context; a context that was never trained adds nothing."""

    def __init__(self, weights: dict[str, list[float]], seed: int = 0) -> None:
        self.weights = weights
        self._rng = random.Random(seed)

    def add_missing(self, names: list[str]) -> None:
        """Give new contexts their initial weights."""
        for name in names:
            if name not in self.weights:
                self.weights[name] = [self._rng.gauss(0.0, INIT_STD) for _ in range(VOCAB_SIZE)]

    def logits(self, names: list[str]) -> list[float]:
        """Sum of the rows of these contexts: (V,)."""
        rows = [self.weights[name] for name in names if name in self.weights]
        return [sum(column) for column in zip(*rows, strict=True)] if rows else [0.0] * VOCAB_SIZE

    def __call__(self, idx: list[list[int]]) -> list[list[list[float]]]:
        """Token ids (B, T) to logits (B, T, V)."""
        return [[self.logits(contexts(row, t)) for t in range(len(row))] for row in idx]


def save(model: NgramModel, path: str) -> None:
    """Write the weights as JSON."""
    Path(path).write_text(json.dumps(model.weights), encoding="utf-8")


def load(path: str) -> Callable[[list[list[int]]], list[list[list[float]]]]:
    """Return f(idx [B][T]) -> logits [B][T][V] of the checkpoint at ``path``.

    The evaluator calls this: f must be a pure function, causal within a row and independent between rows.
    """
    return NgramModel(json.loads(Path(path).read_text(encoding="utf-8")))
