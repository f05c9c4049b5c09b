"""Runs inside a sandbox: what devices a program reaches that keeps to nothing, and how fast the first one multiplies.

Prints one JSON object. Nothing of ours is imported: the sandbox has another Python, perhaps.
"""

import glob
import importlib
import json
import os
import sys
import time
from typing import Any

SIZE = 4096
ROUNDS = 50


def look() -> dict[str, Any]:
    """Nodes, devices and speed, or why not."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    found: dict[str, Any] = {"nodes": sorted(glob.glob("/dev/nvidia*"))}  # noqa: PTH207
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return {**found, "why": f"torch cannot be imported there: {error}"}
    if torch.version.cuda is None:
        return {**found, "why": f"torch {torch.__version__} there is built without CUDA"}
    try:
        found["n_visible"] = sum(can_be_used(torch, index) for index in range(torch.cuda.device_count()))
        device = torch.cuda.get_device_properties(0)
        found["name"], found["uuid"] = device.name, str(getattr(device, "uuid", ""))
        found["right"], found["tflops"] = product_is_right(torch), speed(torch)
    except (RuntimeError, AssertionError) as error:
        return {**found, "why": f"CUDA does not work there: {' '.join(str(error).split())[:300]}"}
    return found


def can_be_used(torch: Any, index: int) -> bool:
    """Whether memory can be had on it: the driver may count devices that it then refuses."""
    try:
        torch.zeros(1, device=f"cuda:{index}")
    except RuntimeError:
        return False
    return True


def product_is_right(torch: Any) -> bool:
    """A small product against the processor's."""
    a = torch.randn(256, 256)
    return bool((a.cuda() @ a.cuda()).cpu().sub(a @ a).abs().max() < 0.1)


def speed(torch: Any) -> float:
    """TFLOP/s of a product of two half-precision matrices."""
    a = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.float16)
    for _ in range(5):
        a @ a
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(ROUNDS):
        a @ a
    torch.cuda.synchronize()
    return 2 * SIZE**3 * ROUNDS / (time.perf_counter() - begun) / 1e12


if __name__ == "__main__":
    print(json.dumps(look()))
    sys.stdout.flush()
