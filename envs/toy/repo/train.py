"""Train the n-gram model of model.py once over the tokens that the host hands out, then save it.

Reads $XAR_DATA (token stream), $XAR_BUDGET (tokens) and $XAR_SEED. Writes out/checkpoint.json and out/metrics.jsonl.
"""

import json
import math
import os
from pathlib import Path

from model import NgramModel, contexts, save, softmax
from stream import TokenStream

BATCH_SIZE = 8  # rows a step
BLOCK_SIZE = 32  # characters a row
LEARNING_RATE = 1.0
WARMUP_FRACTION = 0.0  # share of the budget in which the learning rate rises from 0
FINAL_LR_FRACTION = 0.1  # the last learning rate, in units of LEARNING_RATE
WEIGHT_DECAY = 0.0  # share of each touched weight that a step takes away, in units of the learning rate
LOG_EVERY_STEPS = 4


def learning_rate(fraction: float) -> float:
    """Linear warm-up, then linear down to the final rate; ``fraction`` is the share of the budget used, 0 to 1."""
    if fraction < WARMUP_FRACTION:
        return LEARNING_RATE * fraction / WARMUP_FRACTION
    progress = (fraction - WARMUP_FRACTION) / (1.0 - WARMUP_FRACTION)
    return LEARNING_RATE * (1.0 - (1.0 - FINAL_LR_FRACTION) * progress)


def next_batch(stream: TokenStream) -> list[list[int]]:
    """Rows of BLOCK_SIZE + 1 characters, none when the budget is used up."""
    tokens = stream.read(BATCH_SIZE, BLOCK_SIZE).tolist()
    return [tokens[i : i + BLOCK_SIZE + 1] for i in range(0, len(tokens), BLOCK_SIZE + 1)]


def compute_gradient(model: NgramModel, rows: list[list[int]]) -> tuple[float, dict[str, list[float]]]:
    """Mean loss in nats a character, and each context's gradient: summed over a row, averaged over rows."""
    gradient: dict[str, list[float]] = {}
    total = 0.0
    for row in rows:
        for t, target in enumerate(row[1:]):
            names = contexts(row, t)
            model.add_missing(names)
            error = softmax(model.logits(names))  # (V,): probabilities, less the one-hot target below
            total -= math.log(max(error[target], 1e-300))
            error[target] -= 1.0
            for name in names:
                known = gradient.get(name)
                gradient[name] = error if known is None else [g + e for g, e in zip(known, error, strict=True)]
    n_rows = len(rows)
    mean = {name: [g / n_rows for g in values] for name, values in gradient.items()}
    return total / (n_rows * BLOCK_SIZE), mean


def update(model: NgramModel, gradient: dict[str, list[float]], lr: float) -> None:
    """One step of stochastic gradient descent on the contexts that occurred."""
    keep = 1.0 - lr * WEIGHT_DECAY
    for name, values in gradient.items():
        model.weights[name] = [keep * w - lr * g for w, g in zip(model.weights[name], values, strict=True)]


def train(model: NgramModel, stream: TokenStream, metrics_path: Path) -> None:
    """Spend the whole budget, one batch a step.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    step = 0
    with metrics_path.open("w", encoding="utf-8") as metrics:
        while rows := next_batch(stream):
            lr = learning_rate(stream.fraction_used)
            loss, gradient = compute_gradient(model, rows)
            update(model, gradient, lr)
            step += 1
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} at step {step}, learning rate {lr:.3g}")
            if step % LOG_EVERY_STEPS == 0 or stream.left == 0:
                line = {"step": step, "tokens": stream.budget - stream.left, "loss": loss, "lr": lr}
                print(json.dumps(line), file=metrics, flush=True)


def main() -> None:
    """One training run, the same bits for the same seed."""
    model = NgramModel({}, seed=int(os.environ["XAR_SEED"]))
    out = Path("out")
    out.mkdir(exist_ok=True)
    with TokenStream() as stream:
        train(model, stream, out / "metrics.jsonl")
    save(model, str(out / "checkpoint.json"))


if __name__ == "__main__":
    main()
