"""What drivers that died have left: found by proof that nobody owns it any more, and removed on request.

Results are never among it: folders here hold checkouts, sockets and temporary files only.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xar_agent.errors import XarError
from xar_agent.sandbox import cgroup, held, orphans
from xar_agent.sandbox.patience import within

ENGINE_S = 6.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of ours without a living owner."""

    kind: str
    """ "process", "container", "cgroup", "folder", "scratch" or "lease"."""
    name: str
    """Empty: the kind as a whole could not be looked at."""
    why: str
    """How it is known that nobody owns it; or, where ``remove`` is None, why it is left alone."""
    remove: Callable[[], None] | None
    """Takes it away; raises OSError or XarError where it cannot."""


Finder = Callable[[], Iterator[Leftover]]
"""Looks without changing anything."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What became of one leftover."""

    leftover: Leftover
    outcome: str
    """ "removed", "left" or "failed"."""
    reason: str


def stray_processes() -> Iterator[Leftover]:
    """Supervisors, model servers and commands whose driver is dead."""
    for orphan in orphans.orphans():
        name = f"{orphan.what}, process {orphan.pid}"
        if orphan.unsure:
            yield Leftover("process", name, orphan.unsure, None)
        else:
            yield Leftover("process", name, "its driver is dead", partial(orphans.end, orphan.pid))


def stray_containers() -> Iterator[Leftover]:
    """Containers with our label whose owner is dead."""
    try:
        found = within(ENGINE_S, _ask_engine, "the Docker engine")
    except XarError as error:
        yield Leftover("container", "", f"containers were not looked for: {error.message}", None)
        return
    for container, name in found.items():
        text = f"{container[:12]} ({name})" if name else container[:12]
        yield Leftover("container", text, "its driver is dead", partial(_remove_container, container))


def _ask_engine() -> dict[str, str]:
    """Id and name of each orphan."""
    from xar_agent.sandbox import engine

    client = engine.connect()
    try:
        with engine.lost_when_gone("list containers"):
            return engine.orphans(client)
    finally:
        client.close()


def _remove_container(container: str) -> None:
    from docker.errors import NotFound

    from xar_agent.sandbox import engine

    client = engine.connect()
    try:
        with engine.lost_when_gone("remove a container"), contextlib.suppress(NotFound):
            client.remove_container(container, force=True, v=True)
    finally:
        client.close()


def stray_groups() -> Iterator[Leftover]:
    """Control groups of dead drivers, with what still runs in them."""
    for group in cgroup.abandoned():
        why = _why_group_is_kept(group)
        dead = f"process {group.name.split('-')[1]}, which made it, is dead"
        yield Leftover("cgroup", str(group), why or dead, None if why else partial(_remove_group, group))


def _why_group_is_kept(group: Path) -> str:
    """A supervisor outlives its driver for a moment, to end what runs here."""
    try:
        inside = (group / "cgroup.procs").read_text().split()
    except OSError:
        return ""
    if "0" in inside:
        return "a process in it cannot be seen from here"
    seen = orphans.processes()
    watched = [pid for pid in inside if orphans.is_supervised(int(pid), seen)]
    return f"its process {watched[0]} still has a supervisor" if watched else ""


def _remove_group(group: Path) -> None:
    if why := _why_group_is_kept(group):
        raise OSError(why)
    cgroup.remove({"remove": [str(group)]})
    if group.exists():
        raise OSError("what runs in it cannot be ended")


def stray_folders() -> Iterator[Leftover]:
    """Private folders in the temporary directory whose maker is dead."""
    for path in held.held_folders(Path(tempfile.gettempdir())):
        with contextlib.suppress(FileNotFoundError):
            why = held.why_kept(path)
            if why == held.IN_USE:
                continue
            remove = None if why else partial(held.remove, path)
            yield Leftover("folder", str(path), why or "nobody holds its lock", remove)


def stray_leases() -> Iterator[Leftover]:
    """Notes of who waits for a GPU or has one, whose process is dead: the lock itself went with it."""
    from xar_agent.sandbox.flocks import READ
    from xar_agent.sandbox.gpus import machine_gpus
    from xar_agent.sandbox.leases import abandoned

    place = machine_gpus().folder
    with contextlib.suppress(FileNotFoundError):
        folder = os.open(place, READ | os.O_DIRECTORY)
        try:
            names = abandoned(folder)
        finally:
            os.close(folder)
        for name in names:
            yield Leftover("lease", str(place / name), "its process is dead", partial(_remove_file, place / name))


def _remove_file(path: Path) -> None:
    path.unlink(missing_ok=True)


FINDERS: tuple[Finder, ...] = (stray_processes, stray_containers, stray_groups, stray_folders, stray_leases)
"""In the order of removal: first what could still write."""


def clean(finders: tuple[Finder, ...]) -> Iterator[Cleaning]:
    """Remove what each finder finds, and tell what became of it."""
    for finder in finders:
        for leftover in list(finder()):
            if leftover.remove is None:
                yield Cleaning(leftover, "left", leftover.why)
                continue
            try:
                leftover.remove()
            except XarError as error:
                yield Cleaning(leftover, "failed", error.message)
            except OSError as error:
                yield Cleaning(leftover, "failed", error.strerror or str(error))
            else:
                yield Cleaning(leftover, "removed", leftover.why)
