"""How often the audits of nanogpt catch a leak of a given size, and how often they accuse an honest model.

    python benchmarks/audit/measure.py --losses LOSSES.npy [--audits 200]      writes results.json

LOSSES.npy: losses (1536, 64) in nats of a trained model of preset cpu; ``losses.py`` makes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from leaky import LEAKS, Array, Tables, Warm, addressed_rows, audits  # noqa: E402
from machine import about_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package

SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)
CPU_SD, GPU_SD = 0.01375, 0.003
GPU_ROWS, GPU_LENGTH, GPU_VOCAB = 10_240, 1024, 50_304
GPU_NOISE = 0.017
HALF = 0.5**0.5  # a difference of two has twice the variance
ROUNDING = {"float32": 0.0, "bfloat16, CPU": 0.0055, "bfloat16, half of all sums rounded anew": 0.017}
"""sd in nats of the difference between two ways to compute a loss, seen on a trained model of preset cpu."""


def caught(honest: Array, seen: Array, seed: int, *, sd: float, noise: float = 0.0, gpu: bool = False) -> bool:
    """Whether one evaluation's prefix audit refuses."""
    rng = np.random.default_rng(seed)
    rows = addressed_rows(*honest.shape)
    rules = audits.rules_for(sd, GPU_VOCAB if gpu else 1024, reduce=gpu)
    worker = Tables(honest, seen, noise=noise, rng=np.random.default_rng([seed, 1]))
    size = {"cuts": audits.n_cuts(rules, *honest.shape), "batch_rows": 64}
    return not audits.prefix_audit(worker, rows, seen, rules, rng, **size).passed


def caught_warm(honest: Array, seen: Array, seed: int, noise: float = 0.0) -> bool:
    """Whether one evaluation's stateless check refuses a model that is better after its first call."""
    rng = np.random.default_rng(seed)
    rows, rules = addressed_rows(*honest.shape), audits.rules_for(CPU_SD, 1024, reduce=False)
    kind = Tables if seen is honest else Warm
    first, fresh = (kind(honest, seen, noise=noise, rng=rng) for _ in range(2))
    known = audits.score(first, rows, (64,))
    return not audits.stateless(fresh, rows, known, rules, rng, batch_rows=64).passed


def rates(
    honest: Array, n: int, *, sd: float, sizes: tuple[float, ...], gpu: bool = False
) -> dict[str, dict[str, float]]:
    """Leak -> size in sd -> share of audits that refused. Each audit has its own leak; at GPU size they share one."""
    found: dict[str, dict[str, float]] = {}
    for name, leak in LEAKS.items():
        found[name] = {}
        for size in sizes:
            hits = 0
            for seed in range(n):
                if seed == 0 or not gpu:
                    seen = leak(honest, size * sd, np.random.default_rng([seed, 2]))
                hits += caught(honest, seen, seed, sd=sd, gpu=gpu, noise=GPU_NOISE if gpu else 0.0)
            found[name][f"{size:g}"] = hits / n
        print(name, found[name], flush=True)
    return found


def measure(losses: Array, n: int, n_gpu: int) -> dict[str, Any]:
    """Everything that README shows."""
    found = {"about": about_now(), "audits": n, "gpu_audits": n_gpu, "mean_loss": float(losses.mean())}
    found["cpu"] = rates(losses, n, sd=CPU_SD, sizes=SIZES)
    warm = LEAKS["a share of every loss"]
    rng = np.random.default_rng(0)
    found["warm"] = {
        f"{s:g}": float(np.mean([caught_warm(losses, warm(losses, s * CPU_SD, rng), i) for i in range(n)]))
        for s in SIZES
    }
    found["accused"] = {
        name: {
            "prefix_audit": sum(caught(losses, losses, i, sd=CPU_SD, noise=sd) for i in range(n)),
            "stateless": sum(caught_warm(losses, losses, i, noise=sd * HALF) for i in range(n)),
        }
        for name, sd in ROUNDING.items()
    }
    big = rng.choice(losses.ravel(), (GPU_ROWS, GPU_LENGTH))
    found["gpu_accused"] = sum(caught(big, big, i, sd=GPU_SD, noise=GPU_NOISE, gpu=True) for i in range(n_gpu))
    found["gpu"] = rates(big, n_gpu, sd=GPU_SD, sizes=(1.0,), gpu=True) if n_gpu else {}
    return found


def main() -> None:
    """Measure, then write results.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", type=Path, required=True)
    parser.add_argument("--audits", type=int, default=200)
    parser.add_argument("--gpu-audits", type=int, default=20)
    arguments = parser.parse_args()
    found = measure(np.load(arguments.losses), arguments.audits, arguments.gpu_audits)
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
