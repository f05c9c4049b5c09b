"""One control group per command where this user may make them: memory, processes and CPU bounded by the kernel."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from xar_agent.sandbox.protocol import Limits

MOUNT = Path("/sys/fs/cgroup")
_numbers = itertools.count()


@cache
def version(mount: Path = MOUNT) -> int:
    """1 or 2 where a group that bounds memory can be made and joined here, else 0 (then a watchdog does it)."""
    for candidate in (1, 2):
        made = _make(candidate, Limits(memory_mib=64, processes=16), mount)
        usable = bool(made) and can_join(made)
        remove(made)
        if usable:
            return candidate
    return 0


def can_join(made: Mapping[str, Any]) -> bool:
    """Whether a child of ours may move itself into a group: making one does not mean that."""
    script = 'for procs; do echo 0 > "$procs" || exit 1; done'
    child = subprocess.run(["/bin/sh", "-c", script, "sh", *made["join"]], capture_output=True, env={}, check=False)
    return child.returncode == 0


def make(limits: Limits, mount: Path = MOUNT) -> Mapping[str, Any]:
    """A fresh group for one command: what the supervisor needs to join, read and remove it; empty without cgroups."""
    return _make(version(mount), limits, mount) if version(mount) else {}


def remove(made: Mapping[str, Any]) -> None:
    """Remove a group; what still runs in it is killed."""
    for folder in map(Path, made.get("remove", ())):
        for _ in range(100):
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                folder.rmdir()
            if not folder.exists():
                break
            time.sleep(0.01)


def _make(which: int, limits: Limits, mount: Path) -> dict[str, Any]:
    name = f"xar-{os.getpid()}-{next(_numbers)}"
    made: list[Path] = []
    try:
        return (_make_v1 if which == 1 else _make_v2)(name, limits, made, mount)
    except (OSError, LookupError):
        remove({"remove": made})
        return {}


def _make_v1(name: str, limits: Limits, made: list[Path], mount: Path) -> dict[str, Any]:
    groups = {kind: _own_group(kind, mount) / name for kind in ("memory", "pids", "cpuacct")}
    for group in groups.values():
        group.mkdir()
        made.append(group)
    if limits.memory_mib is not None:
        size = str(limits.memory_mib << 20)
        (groups["memory"] / "memory.limit_in_bytes").write_text(size)
        with contextlib.suppress(OSError):  # kernels that do not count swap
            (groups["memory"] / "memory.memsw.limit_in_bytes").write_text(size)
    if limits.processes is not None:
        (groups["pids"] / "pids.max").write_text(str(limits.processes + 8))
    return {
        "join": [str(group / "cgroup.procs") for group in groups.values()],
        "oom": str(groups["memory"] / "memory.oom_control"),
        "cpu": str(groups["cpuacct"] / "cpuacct.usage"),
        "remove": [str(group) for group in made],
    }


def _make_v2(name: str, limits: Limits, made: list[Path], mount: Path) -> dict[str, Any]:
    group = _home_v2(_own_group("", mount), mount) / name
    group.mkdir()
    made.append(group)
    if limits.memory_mib is not None:
        (group / "memory.max").write_text(str(limits.memory_mib << 20))
        with contextlib.suppress(OSError):
            (group / "memory.swap.max").write_text("0")
    if limits.processes is not None:
        with contextlib.suppress(OSError):  # the rlimit holds as well
            (group / "pids.max").write_text(str(limits.processes + 8))
    return {
        "join": [str(group / "cgroup.procs")],
        "oom": str(group / "memory.events"),
        "cpu": str(group / "cpu.stat"),
        "remove": [str(group)],
    }


def _own_group(kind: str, mount: Path = MOUNT) -> Path:
    """Folder of the group that we are in, of one v1 controller or (with "") of v2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if kind in kinds.split(","):
            folder = mount / kind / path.lstrip("/")
            if (folder / "cgroup.procs").exists():
                return folder
    raise LookupError(kind)


def _home_v2(own: Path, mount: Path = MOUNT) -> Path:
    """A sibling of our own group, because one with processes in it cannot have controlled children; the root can."""
    return own if own == mount else own.parent


def abandoned() -> list[Path]:
    """Groups of drivers that are dead; what runs in them may still be under a supervisor that ends it."""
    homes = []
    for kind in ("memory", "pids", "cpuacct", ""):
        with contextlib.suppress(OSError, LookupError):
            own = _own_group(kind)
            homes.append(own if kind else _home_v2(own))
    return [group for home in homes for group in sorted(home.glob("xar-*-*")) if _driver_is_dead(group)]


def _driver_is_dead(group: Path) -> bool:
    driver = group.name.split("-")[1]
    return driver.isdigit() and not Path("/proc", driver).exists()


def sweep() -> int:
    """Remove the empty groups of drivers that were killed; how many."""
    count = 0
    for left in abandoned():
        with contextlib.suppress(OSError):
            left.rmdir()
            count += 1
    return count
