"""Every file of a folder on disk, one open folder at a time from its parent: what snapshots and manifests look at."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import PatchRefused
from xar_agent.sandbox import folders
from xar_agent.sandbox.objects import MAX_DEPTH

IGNORED_NAMES = ("__pycache__", ".git", ".pytest_cache", ".mypy_cache", ".ruff_cache")
IGNORED_ENDS = (".pyc", ".pyo")
IGNORED_AT_TOP = ("out",)
LOOK, CHANGE = 0o500, 0o700
"""Rights of ours on each folder on the way; one that lacks them gets them."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file of a folder on disk, while its parent is open."""

    path: str
    folder: int
    name: str
    known: os.stat_result


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of a folder; links to it are followed.

    Raises:
        PatchRefused: it cannot be read.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        fd = os.open(folder, flags)
    except PermissionError:
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
        try:
            fd = os.open(folder, flags)
        except PermissionError as error:
            raise PatchRefused(f"{folder} cannot be read", "give its owner's rights back") from error
    try:
        yield fd
    finally:
        os.close(fd)


def walk(root: int, skip: frozenset[str] = frozenset(), *, every: bool = False, mend: bool = False) -> Iterator[Found]:
    """Everything that is no folder and not ignored, in the order of names.

    Folders that their owner made unreadable are made readable.

    Args:
        root: an open folder.
        skip: paths to leave out.
        every: caches, .git and out/ too.
        mend: make all folders writable for us, and remove those that lie too deep.

    Raises:
        PatchRefused: a folder lies too deep or cannot be read; names it.
    """
    yield from _walk(root, "", 0, skip, every, mend)


def _walk(folder: int, prefix: str, depth: int, skip: frozenset[str], every: bool, mend: bool) -> Iterator[Found]:
    _permit(folder, prefix, CHANGE if mend else LOOK)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = prefix + name
        if (not every and always_ignored(name, top=depth == 0)) or path in skip:
            continue
        try:
            known = os.stat(name, dir_fd=folder, follow_symlinks=False)
            below = folders.open_folder(folder, name) if stat.S_ISDIR(known.st_mode) else -1
        except (FileNotFoundError, NotADirectoryError):
            continue  # it changed under our hands
        except PermissionError as error:
            raise PatchRefused(f"{shown(path)} cannot be read", "give its owner's rights back") from error
        if below < 0:
            yield Found(path, folder, name, known)
            continue
        try:
            if depth < MAX_DEPTH:
                yield from _walk(below, path + "/", depth + 1, skip, every, mend)
            elif mend:
                folders.remove_folder(folder, name)
            else:
                raise PatchRefused(f"{shown(path)} lies too deep", f"at most {MAX_DEPTH} folders in each other")
        finally:
            os.close(below)


def _permit(folder: int, prefix: str, rights: int) -> None:
    mode = os.fstat(folder).st_mode
    if mode & rights == rights:
        return
    try:
        os.fchmod(folder, mode & 0o777 | rights)
    except PermissionError as error:
        if os.geteuid() != 0:
            what = shown(prefix.rstrip("/")) or "the workspace"
            raise PatchRefused(f"{what} cannot be read", "give its owner's rights back") from error


def shown(path: str) -> str:
    """A path short enough for a message."""
    return path if len(path) <= 200 else f"{path[:100]}...{path[-60:]}"


def always_ignored(name: str, *, top: bool) -> bool:
    """Whether an entry is never part of a snapshot: caches, .git, and out/ at the ``top``."""
    lowered = name.lower()
    return lowered in IGNORED_NAMES or lowered.endswith(IGNORED_ENDS) or (top and lowered in IGNORED_AT_TOP)
