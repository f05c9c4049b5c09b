"""GPUs for jobs: which there are, and leases on them, so that no two jobs of a machine ever have the same one."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox.gpu_driver import NODE, Device, Found, ask_driver, given_to_us, nodes_as_devices
from xar_agent.sandbox.leases import Lease, LeaseFolder
from xar_agent.sandbox.protocol import SandboxInfo

__all__ = ["Device", "Found", "Gpus", "Lease", "devices", "lease", "leases", "machine_gpus", "require_gpus"]

DEV = Path("/dev")
CONTROL_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
"""What CUDA needs besides the device's own node; none of them gives access to a device."""
PLACES = (Path("/run/lock"), Path("/tmp"))
"""Of the lease folder: the first one that is open to every user, so that all of them take the same."""
DRIVER_LIBRARY = "libcuda.so.1"


@dataclass(frozen=True, slots=True)
class Gpus:
    """The devices of one machine and the leases on them."""

    source: Callable[[], Found]
    """Says what there is."""
    folder: Path
    """With the leases; the same for every process that shares the devices."""
    nodes: Path = DEV
    """Folder of the device nodes."""

    def devices(self) -> tuple[Device, ...]:
        """Those that this process may use.

        Raises:
            CapabilityMissing: there is a driver, and it is broken.
        """
        return self.source().devices

    def named(self, uuids: Sequence[str]) -> tuple[Device, ...]:
        """The devices with these UUIDs, in order.

        Raises:
            CapabilityMissing: there is no such device.
        """
        known = {device.uuid: device for device in self.devices()}
        for uuid in uuids:
            if uuid not in known:
                raise CapabilityMissing(f"there is no GPU {uuid} here", f"there are: {', '.join(known) or 'none'}")
        return tuple(known[uuid] for uuid in uuids)

    def check(self, count: int) -> None:
        """So many can be leased here, sooner or later.

        Raises:
            CapabilityMissing: there are not so many.
        """
        found = self.source()
        if count > len(found.devices):
            there = f"{len(found.devices) or 'none'} can be used here"
            why = "".join(f"; {line}" for line in found.left_out)
            hint = "choose a preset that needs fewer (xar-agent envs show NAME), or use a machine that has them"
            raise CapabilityMissing(f"{count} GPU{'s' if count > 1 else ''} wanted, {there}{why}", hint)

    @contextmanager
    def lease(
        self, count: int, *, timeout_s: float | None = None, cancel: threading.Event | None = None
    ) -> Iterator[tuple[Device, ...]]:
        """Hold ``count`` devices that nobody else has; whoever asked first gets them first.

        Args:
            count: 1 at least.
            timeout_s: None waits without end.
            cancel: ends the wait when set.

        Raises:
            CapabilityMissing: there are not so many, or none came free in time.
            Interrupted: it was cancelled.
        """
        self.check(count)
        by_name = {device.uuid: device for device in self.devices()}
        folder = LeaseFolder(self.folder)
        with folder.hold(tuple(by_name), count, timeout_s=timeout_s, cancel=cancel) as names:
            yield tuple(by_name[name] for name in names)

    def leases(self) -> tuple[Lease, ...]:
        """Who holds which device now; a lease's ``name`` is the UUID."""
        return LeaseFolder(self.folder).held()

    def has_nodes(self) -> bool:
        """Whether there are devices, told by their nodes: asking the driver can take seconds."""
        return any(NODE.fullmatch(path.name) for path in self.nodes.glob("nvidia*"))

    def binds(self, uuids: Sequence[str], *, open_to_all: bool) -> list[tuple[Path, Path]]:
        """Nodes that a sandbox with these devices needs: where each lies, and where CUDA looks for it.

        Args:
            uuids: the leased devices.
            open_to_all: commands run under a user id that has no group of ours.

        Raises:
            CapabilityMissing: a device is unknown, has no node, or may not be used by those commands.
        """
        own = [f"nvidia{device.minor}" for device in self.named(uuids)]
        for name, uuid in zip(own, uuids, strict=True):
            node = self.nodes / name
            if not node.exists():
                hint = "nvidia-modprobe makes it; under WSL devices have no nodes: use Docker there"
                raise CapabilityMissing(f"{uuid} has no node {node}, so it cannot be shown alone", hint)
            if open_to_all and node.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH) != stat.S_IROTH | stat.S_IWOTH:
                hint = "run as that ordinary user who may use it, or load the driver with NVreg_DeviceFileMode=0666"
                raise CapabilityMissing(f"the sandbox's own user may not use {node}", hint)
        return [(self.nodes / name, DEV / name) for name in (*own, *CONTROL_NODES)]


def machine_gpus() -> Gpus:
    """Those of this machine.

    ``XAR_GPU_LEASES`` names another lease folder. ``XAR_FAKE_GPUS`` names a folder: each node ``nvidia<N>`` in it is
    taken for a device, and the driver is not asked.
    """
    folder = Path(os.environ.get("XAR_GPU_LEASES") or shared_place() / "xar-gpus")
    fake = os.environ.get("XAR_FAKE_GPUS")
    if fake:
        return Gpus(lambda: nodes_as_devices(Path(fake)), folder, Path(fake))
    return Gpus(lambda: given_to_us(ask_driver(), os.environ), folder)


def shared_place() -> Path:
    """Where every user of this machine may make files, and nobody removes those of others."""
    for place in PLACES:
        if place.is_dir() and stat.S_IMODE(place.stat().st_mode) == 0o1777:
            return place
    return PLACES[-1]


def devices() -> tuple[Device, ...]:
    """This machine's; see ``Gpus.devices``."""
    return machine_gpus().devices()


def lease(
    count: int, *, timeout_s: float | None = None, cancel: threading.Event | None = None
) -> AbstractContextManager[tuple[Device, ...]]:
    """Hold some of this machine's; see ``Gpus.lease``."""
    return machine_gpus().lease(count, timeout_s=timeout_s, cancel=cancel)


def leases() -> tuple[Lease, ...]:
    """Who holds which of this machine's; see ``Gpus.leases``."""
    return machine_gpus().leases()


def require_gpus(info: SandboxInfo, count: int) -> None:
    """This back end can give a job so many devices; always true for none, and then nothing is asked.

    Raises:
        CapabilityMissing: it cannot, or there are not so many.
    """
    if not count:
        return
    machine_gpus().check(count)
    if not info.capabilities.gpu:
        why = "cannot show a job its own GPUs and no others"
        raise CapabilityMissing(f"the {info.backend} sandbox {why}", "use --sandbox docker or bubblewrap")


def driver_folders() -> list[str]:
    """Folders of our ``LD_LIBRARY_PATH`` with the driver's library: some containers have it nowhere else."""
    places = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return [place for place in places if place.startswith("/") and Path(place, DRIVER_LIBRARY).exists()]


def device_environment(uuids: Sequence[str]) -> dict[str, str]:
    """What tells CUDA which devices it has, and where the driver's library is if not in a usual place."""
    if not uuids:
        return {}
    folders = driver_folders()
    return {"CUDA_VISIBLE_DEVICES": ",".join(uuids), **({"LD_LIBRARY_PATH": ":".join(folders)} if folders else {})}
