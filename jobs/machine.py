"""What this machine is, in one line: scores depend on it, and those of different machines are not ranked together."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from xar_agent.envs.spec import Preset
from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox.gpus import machine_gpus


@cache
def machine_id(runtime: str = "", gpus: str = "") -> str:
    """Processor, cores, Python and torch of this machine: what a score depends on besides the code.

    Args:
        runtime: Python and torch of a container image; empty where programs run this machine's own.
        gpus: those that a run has, as ``gpus_text`` names them; empty for a run without.
    """
    torch = torch_version()
    own = f"Python {sys.version.split()[0]}, {f'torch {torch}' if torch else 'no torch'}"
    return ", ".join(filter(None, (f"{cpu_model()} x{os.cpu_count()}", runtime or own, gpus)))


def machine_for(preset: Preset, runtime: str = "", uuids: Sequence[str] = ()) -> str:
    """The machine as runs of this preset see it: a preset without GPUs does not depend on those that are there.

    Args:
        preset: the size.
        runtime: as for ``machine_id``.
        uuids: of the leased devices; none: those that a lease can give.
    """
    return machine_id(runtime, gpus_text(preset.gpus, uuids))


def gpus_text(count: int, uuids: Sequence[str] = ()) -> str:
    """Name and number of devices, such as "NVIDIA H100 80GB HBM3 x8"; empty for none.

    Where devices of several kinds can be leased, all kinds are named.
    """
    if not count:
        return ""
    try:
        gpus = machine_gpus()
        devices = gpus.named(uuids) if uuids else gpus.devices()
    except CapabilityMissing:
        devices = ()
    kinds = sorted({device.name for device in devices})
    return f"{' or '.join(kinds) or 'no GPU'} x{count}"


def torch_version() -> str:
    """Version of the torch that programs in a sandbox import, read from its package; empty without one."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "cpu part"))]
    return " ".join(names[0].split()) if names else "unknown processor"
