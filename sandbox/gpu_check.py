"""A GPU tried inside a sandbox: a matrix product on one leased device, and a look at whether others can be reached."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xar_agent.errors import CapabilityMissing, SandboxError
from xar_agent.sandbox import open_sandbox, probe
from xar_agent.sandbox.gpu_driver import NODE, Device
from xar_agent.sandbox.gpus import machine_gpus, require_gpus
from xar_agent.sandbox.held import HeldFolder
from xar_agent.sandbox.protocol import Limits, SandboxSpec

PROGRAM = Path(__file__).with_name("gpu_program.py")
PROGRAM_S = 300.0
"""Loading torch with CUDA from a cold disk takes a minute."""
LEASE_S = 60.0
LIMITS = Limits(memory_mib=16_384)


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What one back end can do with one GPU."""

    backend: str
    ok: bool
    """The product was right, and exactly the leased device was in reach."""
    line: str
    """For a person: what was found, or why not."""
    hint: str = ""
    """What to do about it."""
    device: str = ""
    """The model's name."""
    uuid: str = ""
    tflops: float | None = None
    """Of 4096 x 4096 matrices in half precision."""
    n_visible: int | None = None
    """Devices that CUDA finds when CUDA_VISIBLE_DEVICES is not set."""
    nodes: tuple[str, ...] = ()
    """/dev/nvidia* inside."""


def check_gpus(
    backend: str, *, image: str | None = None, timeout_s: float = PROGRAM_S, lease_s: float | None = LEASE_S
) -> GpuReport:
    """Try one device in one back end; whatever is missing is said in the report.

    Args:
        backend: by name; "auto" is the one that a run would use.
        image: container image; None: the back end's own for GPUs.
        timeout_s: for the program inside.
        lease_s: how long to wait for a free device.

    Raises:
        ConfigError: there is no back end of that name.
    """
    try:
        info = probe(backend, image=image, gpus=True)
        backend = info.backend
        require_gpus(info, 1)
        with (
            machine_gpus().lease(1, timeout_s=lease_s) as (device,),
            HeldFolder("gpu") as folder,
        ):
            workspace = folder / "workspace"
            workspace.mkdir()
            spec = SandboxSpec(workspace, limits=LIMITS, gpus=(device.uuid,), image=image, name="gpu-check")
            with open_sandbox(backend, spec) as sandbox:
                done = sandbox.exec([info.python, "-c", PROGRAM.read_text()], timeout_s=timeout_s)
    except (CapabilityMissing, SandboxError) as error:
        return GpuReport(backend, False, error.message, error.hint)
    try:
        found = json.loads(done.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        ending = done.stopped_by or f"exit {done.exit_code}"
        line = f"the program inside failed ({ending}): {' '.join(done.output.split())[-300:] or 'it said nothing'}"
        return GpuReport(backend, False, line, uuid=device.uuid)
    return report(backend, device, found)


def report(backend: str, device: Device, found: dict[str, Any]) -> GpuReport:
    """What the program inside saw, held against the lease."""
    nodes = tuple(found["nodes"])
    shown = {name for name in (Path(node).name for node in nodes) if NODE.fullmatch(name)}
    n_visible, tflops = found.get("n_visible"), found.get("tflops")
    wrong = found.get("why", "")
    if shown != {f"nvidia{device.minor}"}:
        wrong = f"the device nodes inside are {', '.join(sorted(shown)) or 'none'}, not nvidia{device.minor} alone"
    elif n_visible not in (None, 1):
        wrong = f"{n_visible} devices can be reached where one was leased"
    elif found.get("uuid") and found["uuid"].removeprefix("GPU-") != device.uuid.removeprefix("GPU-"):
        wrong = f"the device inside is {found['uuid']}, not the leased {device.uuid}"
    elif not wrong and not found.get("right"):
        wrong = "the product of two matrices is wrong"
    line = wrong or f"{device.name}: {tflops:.0f} TFLOP/s, {', '.join(sorted(shown))} alone can be reached"
    hint = (
        "" if not wrong or "torch" not in wrong else "install torch with CUDA there: make image, or pip install torch"
    )
    return GpuReport(backend, not wrong, line, hint, device.name, device.uuid, tflops, n_visible, nodes)
