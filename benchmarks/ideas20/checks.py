"""Was the stated idea carried out, and nothing else? A check per idea on what the edited code does, never by a model.

    python checks.py CHECK FOLDER BASE

imports the edited ``train.py`` and ``model.py`` of FOLDER and the untouched ones of BASE (each in its own process),
compares what both compute, and prints ``{"right": bool, "reason": "..."}``. Needs torch; stands alone.
"""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROBED_FRACTIONS = [i / 40 for i in range(41)]
ROWS, LENGTH = 2, 16
TOLERANCE = 2e-4
Probe = dict[str, Any]


class FakeStream:
    """Hands out random tokens like the environment's stream."""

    def __init__(self, budget: int = 4096) -> None:
        self.budget = budget
        self.left = budget

    @property
    def fraction_used(self) -> float:
        return 1.0 - self.left / self.budget

    def read(self, rows: int, length: int) -> array[int]:
        rows = min(rows, self.left // length)
        self.left -= rows * length
        generator = torch.Generator().manual_seed(self.left)
        return array("H", torch.randint(0, 1024, (rows * (length + 1),), generator=generator).tolist())


def fill(module: nn.Module) -> None:
    """Weights that depend on nothing but the parameter's name and shape."""
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.copy_(1.0 + 0.1 * noise if parameter.dim() < 2 else 0.2 * noise)


def filled(model: Any) -> Any:
    """A model in evaluation mode with those weights."""
    torch.manual_seed(0)
    made = model.GPT(64).eval()
    fill(made)
    return made


def batch() -> tuple[Tensor, Tensor]:
    """Fixed inputs and targets, (2, 16) each."""
    tokens = torch.randint(0, 1024, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    return tokens[:, :-1], tokens[:, 1:]


def probe(model: Any, train: Any) -> Probe:
    """What the program computes, key by key."""
    x, y = batch()
    gpt = filled(model)
    optimizer = train.configure_optimizer(gpt)
    torch.manual_seed(1)
    fresh = model.GPT(64)
    rows = train.next_batch(FakeStream(1 << 16))[0].shape
    with torch.no_grad():
        logits, loss = gpt(x), train.compute_loss(gpt, x, y).item()
    return {
        "lr": [train.learning_rate(f) for f in PROBED_FRACTIONS],
        "optimizer": [type(optimizer).__name__, [options(group) for group in optimizer.param_groups]],
        "batch": list(rows),
        "n_layers": len(gpt.blocks),
        "shapes": {name: list(p.shape) for name, p in gpt.named_parameters()},
        "dropout": [m.p for m in gpt.modules() if isinstance(m, nn.Dropout)],
        "init": {name: round(p.std().item(), 3) if p.numel() > 1 else 0.0 for name, p in fresh.named_parameters()},
        "logits": logits,
        "loss": loss,
        "step": step_size(model, train, x, y),
    }


def options(group: dict[str, Any]) -> dict[str, Any]:
    """An optimizer group without its parameters."""
    return {"n": len(group["params"]), **{k: v for k, v in group.items() if k != "params"}}


def step_size(model: Any, train: Any, x: Tensor, y: Tensor) -> float:
    """How far one plain-SGD step of ``train_step`` goes: it shows clipping, and losses that are scaled."""
    gpt = filled(model)
    before = [p.detach().clone() for p in gpt.parameters()]
    train.train_step(gpt, torch.optim.SGD(gpt.parameters(), lr=1.0), x, y, 1.0)
    moved = sum(((p - b) ** 2).sum().item() for p, b in zip(gpt.parameters(), before, strict=True))
    return math.sqrt(moved)


def same(a: Any, b: Any) -> bool:
    """Equal, numbers within rounding."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE)
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def expect(wanted: bool, reason: str) -> None:
    """Raises AssertionError with the reason unless it is as wanted."""
    if not wanted:
        raise AssertionError(reason)


def expect_logits(model: Any, reference: Callable[[], Tensor], what: str) -> None:
    """The edited model's logits on the fixed batch are the reference's."""
    with torch.no_grad():
        expect(same(filled(model)(batch()[0]), reference()), f"the logits are not those of {what}")


def reference_of(base_model: Any, **patched: Any) -> Callable[[], Tensor]:
    """Logits of the untouched model with some of its functions replaced."""

    def logits() -> Tensor:
        for name, value in patched.items():
            setattr(base_model, name, value)
        result: Tensor = filled(base_model)(batch()[0])
        return result

    return logits


def group_option(now: Probe, name: str) -> list[Any]:
    return [group.get(name) for group in now["optimizer"][1]]


def expect_options(now: Probe, was: Probe, but: str) -> None:
    """The optimizer is what it was, but for one option."""
    strip = [[{k: v for k, v in g.items() if k != but} for g in p["optimizer"][1]] for p in (now, was)]
    expect(now["optimizer"][0] == was["optimizer"][0] and same(*strip), "the optimizer's options changed too")


def linear_decay(fraction: float) -> float:
    """The stated schedule with the repository's constants."""
    if fraction < 0.1:
        return 3e-3 * fraction / 0.1
    progress = (fraction - 0.1) / 0.9
    return 3e-3 * (0.1 + 0.9 * (1.0 - progress))


def check_batch(rows: int) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect(now["batch"] == [rows, 64], f"a batch is {now['batch']}")
        return {"batch"}

    return check


def check_peak(rate: float) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        scale = rate / max(was["lr"])
        expect(same([r * scale for r in was["lr"]], now["lr"]), f"the peak rate is {max(now['lr'])}")
        expect_options(now, was, but="lr")
        return {"lr", "optimizer"}

    return check


def check_final(share: float) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect(math.isclose(now["lr"][-1], share * 3e-3, abs_tol=1e-9), f"the last rate is {now['lr'][-1]}")
        expect(same(max(now["lr"]), max(was["lr"])), "the peak moved")
        return {"lr"}

    return check


def check_warmup(share: float) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect(same(train.learning_rate(share), 3e-3), f"the rate at {share} is {train.learning_rate(share)}")
        expect(same(train.learning_rate(share / 2), 1.5e-3), "the warm-up is not linear up to there")
        return {"lr"}

    return check


def check_option(name: str, wanted: list[Any]) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect(same(group_option(now, name), wanted), f"{name} is {group_option(now, name)}")
        expect(now["optimizer"][0] == "AdamW", "the optimizer changed")
        return {"optimizer"}

    return check


def check_dropout(rate: float) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect(now["dropout"] != [] and all(p == rate for p in now["dropout"]), f"dropout is {now['dropout']}")
        return {"dropout"}

    return check


def check_layers(n: int) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect(now["n_layers"] == n, f"{now['n_layers']} layers")
        expect_options(now, was, but="n")
        return {"n_layers", "shapes", "init", "logits", "loss", "step", "dropout", "optimizer"}

    return check


def check_clip(norm: float) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect(math.isclose(now["step"], norm, rel_tol=1e-3), f"gradients are clipped at {now['step']:.3f}")
        return {"step"}

    return check


def check_activation(function: Callable[[Tensor], Tensor], name: str) -> Callable[..., set[str]]:
    def check(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
        expect_logits(model, reference_of(base, activation=function), name)
        return {"logits", "loss", "step"}

    return check


def check_rmsnorm(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    expect(not any(isinstance(m, nn.LayerNorm) for m in model.GPT(64).modules()), "there is a LayerNorm left")
    expect_options(now, was, but="n")
    expect_logits(model, reference_of(base, make_norm=lambda: nn.RMSNorm(base.N_EMBD)), "RMSNorm")
    return {"logits", "loss", "shapes", "init", "optimizer", "step"}


def check_sgd(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    expect(now["optimizer"][0] == "SGD", f"the optimizer is {now['optimizer'][0]}")
    expect(group_option(now, "momentum") == [0.9] * len(now["optimizer"][1]), "momentum is not 0.9")
    expect(sum(group_option(now, "n")) == len(now["shapes"]), "not every parameter is trained")
    return {"optimizer"}


def check_linear_decay(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    expect(same(now["lr"], [linear_decay(f) for f in PROBED_FRACTIONS]), f"rates: {now['lr'][::10]}")
    return {"lr"}


def check_smoothing(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    x, y = batch()
    wanted = F.cross_entropy(was["logits"].reshape(-1, 1024), y.reshape(-1), label_smoothing=0.1).item()
    expect(same(now["loss"], wanted), f"the loss is {now['loss']:.4f} instead of {wanted:.4f}")
    return {"loss", "step"}


def check_softcap(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    expect(same(now["logits"], 15 * torch.tanh(was["logits"] / 15)), "the logits are not 15 * tanh(logits / 15)")
    return {"logits", "loss", "step"}


def check_zero_init(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    for name, std in now["init"].items():
        writes = name.endswith(("proj.weight", "down.weight"))
        expect(std == 0.0 if writes else same(std, was["init"][name]), f"{name} starts with sd {std}")
    return {"init"}


def check_qk_norm(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    plain = F.scaled_dot_product_attention

    def normed(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return plain(F.rms_norm(q, (q.shape[-1],)), F.rms_norm(k, (k.shape[-1],)), v, **options)

    class Functional:
        scaled_dot_product_attention = staticmethod(normed)

        def __getattr__(self, name: str) -> Any:
            return getattr(F, name)

    expect_logits(model, reference_of(base, F=Functional()), "RMS-normalised queries and keys")
    return {"logits", "loss", "step"}


def check_swiglu(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    mlp = filled(model).blocks[0].mlp
    layers = [m for m in mlp.modules() if isinstance(m, nn.Linear)]
    expect_options(now, was, but="n")
    expect(len(layers) == 3, f"the MLP has {len(layers)} matrices")
    x = torch.randn(2, 5, model.N_EMBD, generator=torch.Generator().manual_seed(5))
    orders = [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0), (2, 1, 0)]
    fits = [(layers[a], layers[b], layers[c]) for a, b, c in orders if layers[c].out_features == model.N_EMBD]
    with torch.no_grad():
        wanted = [down(F.silu(a(x)) * b(x)) for a, b, down in fits if a.in_features == b.in_features == model.N_EMBD]
        expect(any(same(mlp(x), w) for w in wanted), "the MLP is not down(silu(gate(x)) * up(x))")
    return {"logits", "loss", "shapes", "init", "step", "optimizer"}


def check_rope(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    seen: list[tuple[Tensor, Tensor]] = []
    plain = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append((q, k))
        return plain(q, k, v, **options)

    expect_options(now, was, but="n")
    F.scaled_dot_product_attention = watched
    attention = filled(model).blocks[0].attention
    x = torch.randn(1, 1, model.N_EMBD, generator=torch.Generator().manual_seed(5)).expand(1, 8, -1)
    with torch.no_grad():
        attention(x)
    q, k = seen[0]
    scores = q[0, 0] @ k[0, 0].T
    expect(not same(scores[3, 0], scores[3, 3]), "the scores do not depend on the distance")
    expect(same(scores[3, 1], scores[6, 4]) and same(scores[5, 0], scores[7, 2]), "not only the distance matters")
    expect(same(q[0, 0, 0].norm(), q[0, 0, 5].norm()), "a rotation keeps the length")
    return {"logits", "loss", "shapes", "init", "step", "optimizer"}


def check_ema(now: Probe, was: Probe, model: Any, train: Any, base: Any) -> set[str]:
    history: list[list[Tensor]] = []
    plain = train.train_step

    def watched(gpt: nn.Module, *arguments: Any) -> float:
        if not history:
            history.append([p.detach().clone() for p in gpt.parameters()])
        loss: float = plain(gpt, *arguments)
        history.append([p.detach().clone() for p in gpt.parameters()])
        return loss

    train.train_step = watched
    torch.manual_seed(2)
    gpt = model.GPT(64)
    Path("out").mkdir(exist_ok=True)
    train.train(gpt, FakeStream(16384), Path("out/metrics.jsonl"))
    for start in (history[0], history[1]):
        average = [p.clone() for p in start]
        for weights in history[1:] if start is history[0] else history[2:]:
            average = [0.99 * a + 0.01 * w for a, w in zip(average, weights, strict=True)]
        if all(same(a, p.detach()) for a, p in zip(average, gpt.parameters(), strict=True)):
            expect(len(history) > 2, "there was no second step")
            return set()
    raise AssertionError("the weights after training are not the moving average")


CHECKS: dict[str, Callable[..., set[str]]] = {
    "batch_8": check_batch(8),
    "batch_16": check_batch(16),
    "batch_64": check_batch(64),
    "batch_128": check_batch(128),
    "peak_6e-3": check_peak(6e-3),
    "peak_1e-4": check_peak(1e-4),
    "final_lr_0": check_final(0.0),
    "no_decay": check_option("weight_decay", [0.0, 0.0]),
    "dropout_0.1": check_dropout(0.1),
    "warmup_0.02": check_warmup(0.02),
    "beta2_0.99": check_option("betas", [(0.9, 0.99), (0.9, 0.99)]),
    "layers_6": check_layers(6),
    "clip_0.5": check_clip(0.5),
    "relu_squared": check_activation(lambda x: F.relu(x).square(), "squared ReLU"),
    "silu": check_activation(F.silu, "SiLU"),
    "rmsnorm": check_rmsnorm,
    "sgd": check_sgd,
    "linear_decay": check_linear_decay,
    "smoothing": check_smoothing,
    "softcap": check_softcap,
    "zero_init": check_zero_init,
    "qk_norm": check_qk_norm,
    "swiglu": check_swiglu,
    "rope": check_rope,
    "ema": check_ema,
}
"""Name -> a check that raises AssertionError, or returns the probe keys that may differ from the untouched program."""


def load(folder: str) -> tuple[Any, Any]:
    """``model`` and ``train`` of one folder."""
    sys.path.insert(0, folder)
    import model  # type: ignore[import-not-found]
    import train  # type: ignore[import-not-found]

    return model, train


def base_model(base: str) -> Any:
    """The untouched model module beside the edited one of the same name."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("untouched_model", f"{base}/model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judge(name: str, folder: str, base: str) -> None:
    """Raises AssertionError with the reason when the idea was not carried out, or something else changed too."""
    dumped = subprocess.run([sys.executable, __file__, "probe", base], capture_output=True, check=True).stdout
    was: Probe = pickle.loads(dumped)
    model, train = load(folder)
    now = probe(model, train)
    may_differ = CHECKS[name](now, was, model, train, base_model(base))
    changed = [key for key in was if key not in may_differ and not same(now[key], was[key])]
    expect(not changed, f"something else changed too: {', '.join(changed)}")


def main(arguments: list[str]) -> None:
    """``probe BASE`` writes the pickled probe; ``CHECK FOLDER BASE`` prints the judgement."""
    torch.set_num_threads(1)
    if arguments[0] == "probe":
        sys.stdout.buffer.write(pickle.dumps(probe(*load(arguments[1]))))
        return
    try:
        judge(*arguments)
    except Exception as error:  # any failure of the edited code is a wrong answer
        print(json.dumps({"right": False, "reason": f"{error}"[:300] or type(error).__name__}))
    else:
        print(json.dumps({"right": True, "reason": ""}))


if __name__ == "__main__":
    main(sys.argv[1:])
