"""Device nodes that only look like GPUs: for leases, binds and jobs where there is no GPU."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from xar_agent.sandbox.gpu_driver import nodes_as_devices
from xar_agent.sandbox.gpus import CONTROL_NODES, Gpus


def make_nodes(folder: Path, count: int) -> Path:
    """Nodes of ``count`` devices and of the driver: real character devices for root, who alone may make them."""
    folder.mkdir()
    for name in (*(f"nvidia{minor}" for minor in range(count)), *CONTROL_NODES):
        node = folder / name
        try:
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            node.touch()
        node.chmod(0o666)
    return folder


def made_gpus(folder: Path, count: int) -> Gpus:
    """``count`` devices with a lease folder of their own."""
    nodes = make_nodes(folder / "nodes", count)
    return Gpus(lambda: nodes_as_devices(nodes), folder / "leases", nodes)


def make_this_machine(monkeypatch: pytest.MonkeyPatch, folder: Path, count: int) -> Gpus:
    """The same as ``made_gpus``, for this process and its children as if they were the machine's own."""
    gpus = made_gpus(folder, count)
    monkeypatch.setenv("XAR_FAKE_GPUS", str(gpus.nodes))
    monkeypatch.setenv("XAR_GPU_LEASES", str(gpus.folder))
    return gpus


def wait_for_wishes(gpus: Gpus, count: int) -> None:
    """Until so many wait for a device.

    Raises:
        AssertionError: they never did.
    """
    deadline = time.monotonic() + 30
    while len(list(gpus.folder.glob("wait-*"))) < count:
        assert time.monotonic() < deadline, "nobody waits for a device"
        time.sleep(0.01)
