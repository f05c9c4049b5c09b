"""Train the GPT of model.py once over the tokens that the host hands out, then save it.

Reads $XAR_DATA (token stream), $XAR_BUDGET (tokens or seconds) and $XAR_SEED. Writes out/checkpoint.pt and
out/metrics.jsonl. The same file trains on one CPU thread, one GPU or several (parallel.py).
"""

import json
import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from model import GPT, VOCAB_SIZE, save
from parallel import (
    DEVICE,
    MICRO_BATCH_SIZE,
    RANK,
    SharedStream,
    accelerated,
    average_gradients,
    open_stream,
    start,
    stop,
    warm_up,
)
from stream import TokenStream
from torch import Tensor

BATCH_SIZE = 32  # rows a step, over all processes
BLOCK_SIZE = 64  # tokens a row; the evaluator scores rows of 64
LEARNING_RATE = 3e-3
WARMUP_FRACTION = 0.1  # share of the budget in which the learning rate rises from 0
FINAL_LR_FRACTION = 0.1  # the last learning rate, in units of LEARNING_RATE
WEIGHT_DECAY = 0.1  # on matrices only
BETA1 = 0.9
BETA2 = 0.95
GRAD_CLIP = 1.0  # largest norm of the whole gradient
LOG_EVERY_STEPS = 10
BUDGET_SHARE = 1.0  # share of the budget after which training ends; the schedule is that of this share


def learning_rate(fraction: float) -> float:
    """Linear warm-up, then a cosine down to the final rate; ``fraction`` is how much of the run is over, 0 to 1."""
    if fraction < WARMUP_FRACTION:
        return LEARNING_RATE * fraction / WARMUP_FRACTION
    progress = (fraction - WARMUP_FRACTION) / (1.0 - WARMUP_FRACTION)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))  # 1 -> 0
    return LEARNING_RATE * (FINAL_LR_FRACTION + (1.0 - FINAL_LR_FRACTION) * cosine)


def configure_optimizer(model: GPT) -> torch.optim.Optimizer:
    """AdamW; vectors (norms) are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(BETA1, BETA2))


def next_batch(stream: TokenStream | SharedStream) -> tuple[Tensor, Tensor] | None:
    """Inputs and targets, each (B, T) int64, or None when the budget is used up."""
    tokens = stream.read(BATCH_SIZE, BLOCK_SIZE)
    if not tokens:
        return None
    rows = torch.frombuffer(tokens, dtype=torch.uint16).to(DEVICE).long().view(-1, BLOCK_SIZE + 1)  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def compute_loss(model: GPT, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats a token."""
    logits = model(x)  # (B, T, V)
    return F.cross_entropy(logits.reshape(-1, VOCAB_SIZE), y.reshape(-1))


def backward(model: GPT, x: Tensor, y: Tensor) -> float:
    """Add the gradient of the batch's mean loss, one micro-batch at a time; returns that loss."""
    total = 0.0
    for xs, ys in zip(x.split(MICRO_BATCH_SIZE), y.split(MICRO_BATCH_SIZE), strict=True):
        loss = accelerated(compute_loss)(model, xs, ys) * (len(xs) / len(x))
        loss.backward()
        total += loss.item()
    return total


def train_step(model: GPT, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, lr: float) -> float:
    """One update at learning rate ``lr``; returns the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss = backward(model, x, y)
    average_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    optimizer.step()
    return loss


def train(model: GPT, stream: TokenStream | SharedStream, metrics_path: Path) -> None:
    """Spend the budget, one batch a step.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    optimizer = configure_optimizer(model)
    warm_up(compute_loss, model, BLOCK_SIZE)
    step = 0
    with metrics_path.open("w", encoding="utf-8") as metrics:
        while (batch := next_batch(stream)) is not None and (fraction := stream.fraction_used / BUDGET_SHARE) <= 1:
            lr = learning_rate(fraction)
            loss = train_step(model, optimizer, *batch, lr)
            step += 1
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} at step {step}, learning rate {lr:.3g}")
            if step % LOG_EVERY_STEPS == 0 or stream.left == 0:
                line = {"step": step, "tokens": stream.tokens, "loss": loss, "lr": lr}
                print(json.dumps(line), file=metrics, flush=True)


def main() -> None:
    """One training run; on a CPU the same bits for the same seed."""
    start(int(os.environ["XAR_SEED"]))
    model = GPT(BLOCK_SIZE).to(DEVICE)
    out = Path("out")
    out.mkdir(exist_ok=True)
    with open_stream() as stream:
        train(model, stream, out / "metrics.jsonl" if RANK == 0 else Path(os.devnull))
    if RANK == 0:
        save(model, str(out / "checkpoint.pt"))
    stop()


if __name__ == "__main__":
    main()
