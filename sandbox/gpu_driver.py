"""The GPUs of this machine as its driver (NVML) names them, and which of them this process was given."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from xar_agent.errors import CapabilityMissing

NODE = re.compile(r"nvidia(\d+)")
"""Name of a device's node."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, whole."""

    uuid: str
    index: int
    """The driver's number, in the order of the PCI bus."""
    minor: int
    """Its node is /dev/nvidia<minor>; not always the index."""
    name: str
    memory_mib: int
    """0 where it has no memory of its own."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is."""

    devices: tuple[Device, ...] = ()
    left_out: tuple[str, ...] = ()
    """A line for each device that is there and cannot be used, or was not given to us."""


@cache
def ask_driver() -> Found:
    """Every GPU that the driver has; none where there is no driver. Asked once in a process.

    Raises:
        CapabilityMissing: there is a driver, and it is broken.
    """
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return Found()
        if error.value == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
            return Found(left_out=("NVIDIA's libraries are installed, but no GPU's driver is loaded",))
        raise broken(error) from error
    try:
        read = [read_device(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise broken(error) from error
    finally:
        nvml.nvmlShutdown()
    return Found(
        tuple(device for device in read if isinstance(device, Device)),
        tuple(why for why in read if isinstance(why, str)),
    )


def broken(error: Exception) -> CapabilityMissing:
    """The driver's own word, for a person."""
    hint = "nvidia-smi should say the same; after an update of the driver a reboot is needed"
    return CapabilityMissing(f"the NVIDIA driver does not work: {error}", hint)


def read_device(nvml: Any, index: int) -> Device | str:
    """One device, or why it cannot be used."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = text(nvml.nvmlDeviceGetUUID(handle))
        if is_partitioned(nvml, handle):
            way_on = f"nvidia-smi -i {index} -mig 0 makes it one device again"
            return f"GPU {index} ({name}) is partitioned (MIG), and parts of a GPU cannot be leased; {way_on}"
        return Device(
            uuid=name,
            index=index,
            minor=nvml.nvmlDeviceGetMinorNumber(handle),
            name=text(nvml.nvmlDeviceGetName(handle)),
            memory_mib=memory_mib(nvml, handle),
        )
    except nvml.NVMLError as error:
        return f"GPU {index} cannot be used: {error}"


def is_partitioned(nvml: Any, handle: Any) -> bool:
    """Whether it is split into MIG instances."""
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # most models cannot be
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def memory_mib(nvml: Any, handle: Any) -> int:
    """Its own memory."""
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20
    except nvml.NVMLError_NotSupported:
        return 0


def text(said: str | bytes) -> str:
    """Some releases of the bindings answer in bytes."""
    return said.decode() if isinstance(said, bytes) else said


def nodes_as_devices(folder: Path) -> Found:
    """A made device for each node ``nvidia<N>`` in a folder: for trying an environment where there is no GPU."""
    minors = sorted(int(match[1]) for path in folder.glob("nvidia*") if (match := NODE.fullmatch(path.name)))
    names = [f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, str(folder / str(minor)))}" for minor in minors]
    return Found(tuple(Device(names[i], i, minor, "made device", 0) for i, minor in enumerate(minors)))


def given_to_us(found: Found, environment: Mapping[str, str]) -> Found:
    """Those that ``CUDA_VISIBLE_DEVICES`` and ``NVIDIA_VISIBLE_DEVICES`` of this process leave.

    The second one counts where it says "none" or names UUIDs. Its numbers are those of a container's host, and the
    container's engine has taken away the others already; "void" is what engines say that gave devices in another way.
    """
    kept = set(found.devices)
    left_out = list(found.left_out)
    cuda = environment.get("CUDA_VISIBLE_DEVICES")
    if cuda is not None:
        chosen, strange = chosen_by_cuda(found.devices, cuda)
        kept &= chosen
        left_out += strange
    engine = [word.strip() for word in environment.get("NVIDIA_VISIBLE_DEVICES", "").split(",")]
    if engine == ["none"]:
        kept.clear()
    elif all(word.startswith(("GPU-", "MIG-")) for word in engine):
        kept &= {device for device in found.devices if device.uuid in engine}
    hidden = len(found.devices) - len(kept)
    if hidden:
        names = [name for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES") if name in environment]
        left_out.append(f"{hidden} of {len(found.devices)} are not among those of {' and '.join(names)}")
    return replace(found, devices=tuple(device for device in found.devices if device in kept), left_out=tuple(left_out))


def chosen_by_cuda(devices: tuple[Device, ...], value: str) -> tuple[set[Device], list[str]]:
    """As CUDA reads it: numbers or beginnings of UUIDs, up to the first word that names no device."""
    chosen: set[Device] = set()
    for word in map(str.strip, value.split(",")):
        if word.startswith("MIG-"):
            return chosen, [f"CUDA_VISIBLE_DEVICES names a part of a GPU ({word}), and parts cannot be leased (MIG)"]
        if word.isdecimal():
            named = [device for device in devices if device.index == int(word)]
        else:
            named = [device for device in devices if word.startswith("GPU-") and device.uuid.startswith(word)]
        if len(named) != 1:
            break
        chosen.add(named[0])
    return chosen, []
