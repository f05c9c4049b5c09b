"""Fit the network of predict.py by stochastic gradient descent, then save it.

Reads $XAR_DATA (folder with rows.csv), $XAR_BUDGET (seconds) and $XAR_SEED. Writes out/checkpoint.json and
out/metrics.jsonl. Replace: your own training program; the host knows these three variables and two files alone.
"""

import csv
import json
import math
import os
import random
import time
from pathlib import Path

from predict import Network, new_network, save

EPOCHS_PER_SECOND = 0.6  # of the budget: half of it buys half the training, on any machine
LEARNING_RATE = 0.01
FINAL_LR_FRACTION = 0.1  # the last learning rate, in units of LEARNING_RATE
STOP_AT_SHARE = 0.9  # of the budget: a machine that is far too slow ends in time to save

Row = tuple[list[float], float]


def read_rows(folder: Path) -> list[Row]:
    """Inputs and target of each training row."""
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        return [([float(x) for x in values[:-1]], float(values[-1])) for values in csv.reader(file)]


def step(network: Network, row: Row, lr: float) -> float:
    """One step of gradient descent on half the squared error of one row; the squared error before it."""
    inputs, target = row
    activations = network.hidden(inputs)
    error = network.output(activations) - target
    for unit, activation in enumerate(activations):
        slope = lr * error * network.w2[unit] * (1.0 - activation * activation)
        network.w2[unit] -= lr * error * activation
        network.b1[unit] -= slope
        weights = network.w1[unit]
        for feature, x in enumerate(inputs):
            weights[feature] -= slope * x
    network.b2 -= lr * error
    return error * error


def train(network: Network, rows: list[Row], rng: random.Random, budget_s: float, metrics_path: Path) -> None:
    """Passes over the rows, each in a new order, as many as the budget buys.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    begun = time.monotonic()
    n_epochs = max(1, round(EPOCHS_PER_SECOND * budget_s))
    with metrics_path.open("w", encoding="utf-8") as metrics:
        for epoch in range(n_epochs):
            if time.monotonic() - begun > STOP_AT_SHARE * budget_s:
                break
            lr = LEARNING_RATE * (1.0 - (1.0 - FINAL_LR_FRACTION) * epoch / n_epochs)
            loss = sum(step(network, row, lr) for row in rng.sample(rows, len(rows))) / len(rows)
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} in epoch {epoch}, learning rate {lr:.3g}")
            print(json.dumps({"step": epoch + 1, "loss": loss, "lr": lr}), file=metrics, flush=True)


def main() -> None:
    """One training run, the same bits for the same seed."""
    seed = int(os.environ["XAR_SEED"])
    network = new_network(seed)
    rows = read_rows(Path(os.environ["XAR_DATA"]))
    out = Path("out")
    out.mkdir(exist_ok=True)
    train(network, rows, random.Random(seed), float(os.environ["XAR_BUDGET"]), out / "metrics.jsonl")
    save(network, str(out / "checkpoint.json"))


if __name__ == "__main__":
    main()
