"""Whole folders that untrusted code has filled: given away or removed, however deep, long or locked they are.

Always one step from an open folder and with one descriptor at a time, so neither the depth nor the length of a path
matters, and no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def own_tree(root: Path, owner: int) -> None:
    """Give ``root`` and all below it to ``owner``; links themselves, never what they point to."""

    def give(folder: int) -> list[str]:
        if os.fstat(folder).st_uid != owner:
            os.fchown(folder, owner, owner)
        below, others = _listed(folder)
        for name in others:
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, owner, owner, dir_fd=folder, follow_symlinks=False)
        return below

    fd = os.open(root, FOLDER)
    try:
        _visit(fd, give, lambda folder, name: None)
    finally:
        os.close(fd)


def unlock(folder: Path) -> None:
    """Give the owner of a folder its rights back, where a command has taken them from all that come after it."""
    mode = stat.S_IMODE(folder.lstat().st_mode)
    if mode & 0o700 != 0o700:
        with contextlib.suppress(PermissionError):  # not ours: then it was never the command's either
            folder.chmod(mode | 0o700)


def remove_tree(root: Path) -> None:
    """Remove ``root`` and all below it, also what was made unreadable; a missing one is fine."""
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(root.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_folder(parent, root.name)
        finally:
            os.close(parent)


def remove_folder(folder: int, name: str) -> None:
    """Remove the folder ``name`` of an open folder, and all below it."""
    below = open_folder(folder, name)
    try:
        _visit(below, _unlink_files, lambda above, emptied: os.rmdir(emptied, dir_fd=above))
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=folder)


def open_folder(folder: int, name: str) -> int:
    """A descriptor of the folder ``name``; one of ours that we may not read is made readable.

    Raises:
        PermissionError: it belongs to someone else.
        FileNotFoundError, NotADirectoryError: as usual; a link is no folder.
    """
    try:
        return os.open(name, FOLDER, dir_fd=folder)
    except PermissionError:
        allow(folder, name, 0o700)
        return os.open(name, FOLDER, dir_fd=folder)


def allow(folder: int, name: str, rights: int) -> None:
    """Add rights to an entry that we may not open yet, by handle, so that it cannot become a link in between."""
    fd = os.open(name, HANDLE, dir_fd=folder)
    try:
        mode = os.fstat(fd).st_mode
        with contextlib.suppress(OSError):  # not ours, or a link: opening it says so
            Path(f"/proc/self/fd/{fd}").chmod(mode & 0o777 | rights)
    finally:
        os.close(fd)


def _visit(folder: int, enter: Callable[[int], list[str]], leave: Callable[[int, str], None]) -> None:
    """Call ``enter`` for ``folder`` and each one below, which says where to go on, and ``leave`` on the way back.

    Raises:
        PermissionError: a folder was moved while we were in it.
    """
    here = os.dup(folder)
    above: list[tuple[str, tuple[int, int]]] = []
    try:
        todo = [enter(here)]
        while todo[-1] or above:
            if todo[-1]:
                name = todo[-1].pop()
                try:
                    below = open_folder(here, name)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # it changed under our hands
                above.append((name, _identity(here)))
                os.close(here)
                here = below
                todo.append(enter(here))
                continue
            name, parent = above.pop()
            todo.pop()
            back = os.open("..", FOLDER, dir_fd=here)
            os.close(here)
            here = back
            if _identity(here) != parent:
                raise PermissionError(errno.EACCES, "was moved while it was read", name)
            leave(here, name)
    finally:
        os.close(here)


def _identity(folder: int) -> tuple[int, int]:
    known = os.fstat(folder)
    return known.st_dev, known.st_ino


def _listed(folder: int) -> tuple[list[str], list[str]]:
    """Names of the folders in an open folder, and of all else."""
    names: tuple[list[str], list[str]] = ([], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            names[0 if entry.is_dir(follow_symlinks=False) else 1].append(entry.name)
    return names


def _unlink_files(folder: int) -> list[str]:
    with contextlib.suppress(PermissionError):
        os.fchmod(folder, 0o700)
    below, others = _listed(folder)
    for name in others:
        os.unlink(name, dir_fd=folder)
    return below
