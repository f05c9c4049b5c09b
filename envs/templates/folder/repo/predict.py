"""A network with one hidden layer: what it computes, and how a checkpoint becomes a function.

Replace: your own model. What must stay is ``load``, which worker.py calls.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

N_FEATURES = 4
HIDDEN_UNITS = 12


@dataclass(slots=True)
class Network:
    """y = w2 . tanh(w1 x + b1) + b2."""

    w1: list[list[float]]
    """(hidden, features)"""
    b1: list[float]
    w2: list[float]
    b2: float

    def hidden(self, row: Sequence[float]) -> list[float]:
        """Activations (hidden,) of one row."""
        return [
            math.tanh(bias + sum(w * x for w, x in zip(weights, row, strict=True)))
            for weights, bias in zip(self.w1, self.b1, strict=True)
        ]

    def output(self, activations: Sequence[float]) -> float:
        """The prediction from the activations."""
        return self.b2 + sum(w * h for w, h in zip(self.w2, activations, strict=True))


def new_network(seed: int) -> Network:
    """Small random weights."""
    rng = random.Random(seed)
    w1 = [[rng.gauss(0.0, 0.7) for _ in range(N_FEATURES)] for _ in range(HIDDEN_UNITS)]
    return Network(w1, [0.0] * HIDDEN_UNITS, [rng.gauss(0.0, 0.3) for _ in range(HIDDEN_UNITS)], 0.0)


def save(network: Network, path: str) -> None:
    """Write the weights as JSON."""
    Path(path).write_text(json.dumps(asdict(network)), encoding="utf-8")


def load(path: str) -> Callable[[list[list[float]]], list[float]]:
    """Return f(rows [B][4]) -> predictions [B] of the checkpoint at ``path``; each from its own row alone."""
    network = Network(**json.loads(Path(path).read_text(encoding="utf-8")))
    return lambda rows: [network.output(network.hidden(row)) for row in rows]
