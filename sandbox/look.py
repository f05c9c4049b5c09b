"""What this machine has for sandboxes, looked at without changing anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import CapabilityMissing, XarError
from xar_agent.sandbox.patience import within

ENGINE_S = 6.0
"""A dead engine costs no more than this."""
TRY_S = 90.0
"""Python's start inside a sandbox takes a fraction of a second, and a minute on a machine under heavy load."""
USER_NAMESPACES = {
    "/proc/sys/user/max_user_namespaces": "0",
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}
"""Setting of the kernel -> the value with which ordinary users are refused namespaces."""


@dataclass(frozen=True, slots=True)
class ImageLook:
    """One container image that is looked for."""

    name: str
    n_bytes: int | None
    """None: it is not there."""
    build: str
    """What to do where it is not there."""


@dataclass(frozen=True, slots=True)
class EngineLook:
    """The Docker engine."""

    version: str = ""
    """Empty: no engine can be used."""
    api: str = ""
    storage: str = ""
    cgroup_version: str = ""
    gpu_runtime: bool = False
    images: tuple[ImageLook, ...] = ()
    why_not: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class BwrapLook:
    """bubblewrap."""

    path: str = ""
    version: str = ""
    user_namespaces: str = ""
    """What the kernel says to ordinary users: "allowed", or the setting that refuses them."""
    as_root: bool = False
    works: bool = False
    detail: str = ""
    why_not: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class CgroupLook:
    """Control groups."""

    mounted: str
    """ "v1", "v2" or "none"."""
    usable: int
    """Version in which this user can make groups; 0: none."""
    memory: str
    processes: str
    """What bounds them for the sandboxes of this machine: "cgroup", "watchdog" or "rlimit"."""


def look_at_engine(images: Sequence[str]) -> EngineLook:
    """The engine that would be used, and which of these images it has."""
    from xar_agent.sandbox.images import how_to_build

    try:
        return within(
            ENGINE_S, lambda: _ask_engine(images), "the Docker engine", "start it again, or unset DOCKER_HOST"
        )
    except XarError as error:
        unknown = tuple(ImageLook(name, None, how_to_build(name)) for name in images)
        return EngineLook(images=unknown, why_not=error.message, hint=error.hint)


def _ask_engine(images: Sequence[str]) -> EngineLook:
    from docker.errors import NotFound

    from xar_agent.sandbox import engine
    from xar_agent.sandbox.images import how_to_build

    client = engine.connect()
    try:
        with engine.lost_when_gone("say what it can do"):
            said = client.info()
            found = []
            for name in images:
                try:
                    size = int(client.inspect_image(name)["Size"])
                except NotFound:
                    found.append(ImageLook(name, None, how_to_build(name)))
                else:
                    found.append(ImageLook(name, size, ""))
    finally:
        client.close()
    return EngineLook(
        version=str(said.get("ServerVersion", "")),
        api=str(client.api_version),
        storage=str(said.get("Driver", "")),
        cgroup_version=str(said.get("CgroupVersion") or "1"),
        gpu_runtime="nvidia" in (said.get("Runtimes") or {}) or bool(said.get("DiscoveredDevices")),
        images=tuple(found),
    )


def look_at_bwrap() -> BwrapLook:
    """bubblewrap, tried by running our Python in it."""
    from xar_agent.sandbox import probe
    from xar_agent.sandbox.bubblewrap import find_bwrap

    refused = [name for name, value in USER_NAMESPACES.items() if _setting(name) == value]
    spaces = f"refused by {Path(refused[0]).name}" if refused else "allowed"
    as_root = os.geteuid() == 0
    try:
        path, version = find_bwrap()
    except CapabilityMissing as error:
        return BwrapLook(user_namespaces=spaces, as_root=as_root, why_not=error.message, hint=error.hint)
    try:
        detail = within(TRY_S, lambda: probe("bubblewrap").detail, "bubblewrap")
    except XarError as error:
        return BwrapLook(path, version, spaces, as_root, why_not=error.message, hint=error.hint)
    return BwrapLook(path, version, spaces, as_root, works=True, detail=detail)


def _setting(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def look_at_cgroups() -> CgroupLook:
    """Control groups, tried by making one and removing it."""
    from xar_agent.sandbox import cgroup
    from xar_agent.sandbox.local import memory_means, process_means

    mounted = "none"
    if (cgroup.MOUNT / "memory" / "cgroup.procs").exists():
        mounted = "v1"
    elif (cgroup.MOUNT / "cgroup.controllers").exists():
        mounted = "v2"
    return CgroupLook(mounted, cgroup.version(), memory_means(), process_means())
