"""What a training step needs, without a GPU: parameters, memory of each kind, and floating-point operations a token.

    python estimate.py < request.json

The request is {"files": {"train.py": source, ...}, "gpus": 8, "bf16": true}. One JSON object goes to stdout. The step
is carried out on torch's meta device, where tensors have shapes and no contents, and every allocation is followed:
forward, backward and update of one micro-batch, operation by operation. A compiler that fuses them needs less.

It imports the files: those of a candidate belong into a sandbox.
"""

import json
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

# Which operations autocast takes to bfloat16 and which to float32 on a GPU; the others take what they are given.
TO_BFLOAT16 = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d"}
TO_FLOAT32 = {
    *("layer_norm", "rms_norm", "group_norm", "softmax", "log_softmax", "cross_entropy", "cross_entropy_loss"),
    *("nll_loss", "exp", "log", "pow", "norm", "cumsum", "cumprod", "sum", "prod", "mse_loss", "softplus", "rsqrt"),
}


class Sources(MetaPathFinder, InspectLoader):
    """Imports modules from texts, so that nothing has to be written."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module if it is one of the texts."""
        return spec_from_loader(fullname, self) if f"{fullname}.py" in self._files else None

    def get_source(self, fullname: str) -> str:
        """Its text."""
        return self._files[f"{fullname}.py"]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that exist, and the most that there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry the operation out and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        if storage in self._known:  # a view of what was there
            return
        n_bytes = storage.nbytes()
        self._known[storage] = n_bytes
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, n_bytes)

    def _drop(self, n_bytes: int) -> None:
        self.live -= n_bytes


class Flash(torch.autograd.Function):
    """Attention as the fused kernels do it: nothing of size T x T is ever there."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: (B, H, T, D)."""
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v."""
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class Accelerated(TorchFunctionMode):
    """Fused attention, and bfloat16 where autocast would use it."""

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self._bf16 = bf16
        self.attention_flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry one function out."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*self._cast(args[:3], torch.bfloat16))
        name = getattr(func, "__name__", "")
        if name in TO_BFLOAT16:
            return func(*self._cast(args, torch.bfloat16), **self._cast(kwargs, torch.bfloat16))
        if name in TO_FLOAT32:
            return func(*self._cast(args, torch.float32), **self._cast(kwargs, torch.float32))
        return func(*args, **kwargs)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Two products forward, four backward; the causal half is counted in full, as is usual.
        rows, length = q.shape[:-2].numel(), q.shape[-2]
        self.attention_flops += 3 * 2 * rows * length * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return Flash.apply(q, k, v)  # type: ignore[no-any-return, no-untyped-call]

    def _cast(self, values: Any, dtype: torch.dtype) -> Any:
        if not self._bf16:
            return values
        floats = (torch.float32, torch.bfloat16)
        return tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.dtype in floats else v, values)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of one process did; bytes."""

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    peak_of_passes: int
    """Forward and backward of a micro-batch, weights and gradients included."""
    peak_of_update: int
    flops_per_token: int


def step(train: Any, rows: int, length: int, *, bf16: bool, message: bool) -> Step:
    """Carry out one step of ``rows`` rows; ``message``: gradients go to other processes in one flat tensor."""
    with LiveBytes() as memory, torch.device("meta"):
        model = train.GPT(length)
        weights = memory.live
        x, y = (torch.zeros((rows, length), dtype=torch.int64) for _ in range(2))
        accelerated = Accelerated(bf16)
        with FlopCounterMode(display=False) as counter:
            with accelerated:
                loss = train.compute_loss(model, x, y)
            loss.backward()
        passes = memory.peak
        del loss, x, y
        gradients = memory.live - weights
        optimizer = train.configure_optimizer(model)
        optimizer.step()
        state = memory.live - weights - gradients
    n = sum(p.numel() for p in model.parameters())
    # Updates of all tensors at once keep a copy of one state; the message is a copy of the gradients, and its mean.
    update = weights + gradients + state + max(state // 2, 2 * gradients if message else 0)
    flops = (counter.get_total_flops() + accelerated.attention_flops) // (rows * length)
    # The state comes with the first update and is there during every later step.
    return Step(n, weights, gradients, state, passes + state, update, flops)


@contextmanager
def importable(files: dict[str, str]) -> Iterator[Callable[[str], Any]]:
    """Import from these texts while it lasts."""
    finder = Sources(files)
    sys.meta_path.insert(0, finder)
    try:
        yield import_module
    finally:
        sys.meta_path.remove(finder)


def estimate(files: dict[str, str], *, gpus: int, bf16: bool) -> dict[str, Any]:
    """What one process needs, with the sizes that it was computed for."""
    with importable(files) as module:
        train = module("train")
    rows = min(train.MICRO_BATCH_SIZE, max(1, train.BATCH_SIZE // max(1, gpus)))
    found = step(train, rows, train.BLOCK_SIZE, bf16=bf16, message=gpus > 1)
    return {
        "parameters": found.parameters,
        "micro_batch_rows": rows,
        "block": train.BLOCK_SIZE,
        "tokens_per_step": train.BATCH_SIZE * train.BLOCK_SIZE,
        "weights_bytes": found.weights,
        "gradients_bytes": found.gradients,
        "optimizer_bytes": found.optimizer,
        "activations_bytes": found.peak_of_passes - found.weights - found.gradients - found.optimizer,
        "update_bytes": found.peak_of_update - found.weights - found.gradients - found.optimizer,
        "peak_bytes": max(found.peak_of_passes, found.peak_of_update),
        "flops_per_token": found.flops_per_token,
    }


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    print(json.dumps(estimate(request["files"], gpus=request["gpus"], bf16=request["bf16"])))


if __name__ == "__main__":
    main()
