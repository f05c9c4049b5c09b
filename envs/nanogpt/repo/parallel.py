"""Where a training run computes: one CPU thread, one GPU, or several GPUs that torchrun has started a process for each.

Every process has the same weights and takes its own share of each batch; gradients are averaged before each update, so
the result is that of one process with the whole batch. On one CPU nothing in here changes a bit.
"""

import os
from array import array
from collections.abc import Callable
from functools import cache

import torch
import torch.distributed as dist
from stream import TokenStream
from torch import Tensor, nn

MICRO_BATCH_SIZE = 1024  # rows that one process takes through the model at once; its gradient is that of all its rows
RANK = int(os.environ.get("RANK", "0"))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
DEVICE = f"cuda:{LOCAL_RANK}" if torch.cuda.is_available() else "cpu"


def start(seed: int) -> None:
    """Set up this process: the same seed everywhere, so that all begin with the same weights."""
    torch.set_num_threads(1)
    if DEVICE != "cpu":
        torch.cuda.set_device(DEVICE)
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
    if WORLD_SIZE > 1:
        dist.init_process_group("gloo" if DEVICE == "cpu" else "nccl")
    torch.manual_seed(seed)


def stop() -> None:
    """Leave the group of processes, after the slowest of them."""
    if WORLD_SIZE > 1:
        dist.barrier()
        dist.destroy_process_group()


@cache
def accelerated(loss_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``loss_of`` compiled and with its matrix products in bfloat16; on a CPU ``loss_of`` itself."""
    if DEVICE == "cpu":
        return loss_of
    compiled = torch.compile(loss_of)

    def accelerated_loss(*inputs: object) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return compiled(*inputs)

    return accelerated_loss


def warm_up(loss_of: Callable[..., Tensor], model: nn.Module, length: int) -> None:
    """Compile for a micro-batch of rows of ``length`` tokens, before the first read starts the clock."""
    if DEVICE == "cpu":
        return
    rows = torch.zeros(MICRO_BATCH_SIZE, length + 1, dtype=torch.long, device=DEVICE)
    accelerated(loss_of)(model, rows[:, :-1], rows[:, 1:]).backward()
    model.zero_grad()


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over all processes."""
    if WORLD_SIZE == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])  # one message instead of a hundred
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / WORLD_SIZE).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class SharedStream:
    """One token stream for all processes: the first reads each batch, and each takes its rows of it.

    Attributes are those of TokenStream, and are the same in every process.
    """

    def __init__(self) -> None:
        self._stream = TokenStream() if RANK == 0 else None
        self.budget = int(os.environ["XAR_BUDGET"])
        self.left: float = self.budget
        self.tokens = 0

    @property
    def fraction_used(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        return min(1.0, 1.0 - self.left / self.budget)

    def read(self, rows: int, length: int) -> "array[int]":
        """This process's share of the next ``rows`` rows, as many as any other's; empty when the budget is used up."""
        batch = self._stream.read(rows, length) if self._stream else array("H")
        n_rows = len(batch) // (length + 1) // WORLD_SIZE  # each; what is left over of a last, short batch is dropped
        state = torch.zeros(3, dtype=torch.float64)
        if self._stream:
            state = torch.tensor([n_rows, self._stream.left, self._stream.tokens], dtype=torch.float64)
        state = broadcast(state)
        n_rows, self.left, self.tokens = int(state[0]), float(state[1]), int(state[2])
        if not n_rows:
            return array("H")
        n_bytes = 2 * n_rows * (length + 1)
        whole = torch.zeros(n_bytes * WORLD_SIZE, dtype=torch.uint8)
        if RANK == 0:
            whole = torch.frombuffer(batch, dtype=torch.uint8)[: len(whole)]
        share = broadcast(whole)[RANK * n_bytes : (RANK + 1) * n_bytes]
        return array("H", share.numpy().tobytes())

    def __enter__(self) -> "SharedStream":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._stream:
            self._stream.__exit__(*exception)


def broadcast(values: Tensor) -> Tensor:
    """The first process's values, on the CPU of each."""
    values = values.to(DEVICE)  # NCCL talks between GPUs only
    dist.broadcast(values, 0)
    return values.cpu()


def open_stream() -> TokenStream | SharedStream:
    """The host's token stream, shared where there are several processes."""
    return TokenStream() if WORLD_SIZE == 1 else SharedStream()
