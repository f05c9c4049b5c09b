"""Host access to files that untrusted code wrote: no link, pipe or device can lead us astray.

Every path is walked one component at a time from an open folder, so a link swapped in between two steps changes
nothing. Links that stay inside the folder are followed, as the sandbox itself would.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from xar_agent.sandbox.folders import FOLDER, own_tree, remove_tree

__all__ = [
    "make_folder",
    "open_regular",
    "own_tree",
    "read_bounded",
    "read_file",
    "remove_tree",
    "replace_file",
    "write_file",
]

FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
MAX_LINKS = 16
MAX_NAME_BYTES = 255
MAX_PARTS = 256
"""Of one path: each is a descriptor while it is walked."""


def read_file(root: Path, path: str, *, max_bytes: int, aliases: tuple[str, ...] = ()) -> bytes:
    """Bytes of the regular file ``path`` below ``root``; ``aliases`` are what links inside call ``root``.

    Raises:
        FileNotFoundError, IsADirectoryError: as usual.
        PermissionError: the path leads out, or to something that is no regular file.
        OSError: it holds more than ``max_bytes`` (EFBIG).
    """
    with _parent(root, path, aliases, make=False, owner=None) as (folder, name):
        fd = open_regular(folder, name, path)
        try:
            return read_bounded(fd, path, max_bytes)
        finally:
            os.close(fd)


def write_file(
    root: Path, path: str, content: bytes, *, aliases: tuple[str, ...] = (), owner: int | None = None
) -> None:
    """Write ``path`` below ``root`` by rename, making folders; what is made belongs to ``owner``.

    Raises:
        IsADirectoryError: a folder is in the way.
        PermissionError: the path leads out of ``root``.
    """
    with _parent(root, path, aliases, make=True, owner=owner) as (folder, name):
        mode = 0o644
        with contextlib.suppress(FileNotFoundError):
            known = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(known.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a folder", path)
            mode = stat.S_IMODE(known.st_mode) & 0o777 if stat.S_ISREG(known.st_mode) else mode
        replace_file(folder, name, content, mode=mode, owner=owner)


def replace_file(folder: int, name: str, content: bytes, *, mode: int, owner: int | None) -> None:
    """Put a complete file in the place of ``name``, whatever that was (a folder excepted)."""
    fresh = f".xar-{secrets.token_hex(8)}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            if owner is not None:
                os.fchown(file.fileno(), owner, owner)
            os.fchmod(file.fileno(), mode)
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(fresh, dir_fd=folder)
        raise


def open_regular(folder: int, name: str, shown: str) -> int:
    """A descriptor of a regular file; never hangs on a pipe, never opens a device."""
    _refuse_odd(os.stat(name, dir_fd=folder, follow_symlinks=False), shown)
    fd = os.open(name, FILE, dir_fd=folder)
    try:
        _refuse_odd(os.fstat(fd), shown)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_bounded(fd: int, shown: str, max_bytes: int) -> bytes:
    """All bytes of an open file.

    Raises:
        OSError: more than ``max_bytes`` (EFBIG).
    """
    parts, size = [], 0
    while part := os.read(fd, min(1 << 20, max_bytes - size + 1)):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"holds more than {max_bytes} bytes", shown)
    return b"".join(parts)


def make_folder(root: Path, path: str, *, aliases: tuple[str, ...] = (), owner: int | None = None) -> None:
    """Make the folder ``path`` below ``root``, with its parents.

    Raises:
        PermissionError: the path leads out of ``root``.
    """
    with _parent(root, f"{path}/x", aliases, make=True, owner=owner):
        pass


def _refuse_odd(known: os.stat_result, shown: str) -> None:
    if stat.S_ISDIR(known.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", shown)
    if not stat.S_ISREG(known.st_mode):
        raise PermissionError(errno.EACCES, "is no regular file", shown)


@contextlib.contextmanager
def _parent(
    root: Path, path: str, aliases: tuple[str, ...], *, make: bool, owner: int | None
) -> Iterator[tuple[int, str]]:
    """The open folder that holds ``path``, and its last name, which is then no link."""
    stack = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        todo = _components(path, aliases, path)
        links = 0
        while True:
            name = todo.pop(0) if todo else "."
            if name == "..":
                if len(stack) == 1:
                    raise PermissionError(errno.EACCES, "leads out of the workspace", path)
                os.close(stack.pop())
                continue
            target = _link(stack[-1], name)
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, "too many links", path)
                if target.startswith("/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
                todo = _components(target, aliases, path) + todo
                continue
            if not todo:
                yield stack[-1], name
                return
            stack.append(_enter(stack[-1], name, path, make=make, owner=owner))
    finally:
        for fd in stack:
            os.close(fd)


def _components(path: str, aliases: tuple[str, ...], shown: str) -> list[str]:
    _refuse_name(path)
    if path.startswith("/"):
        inside = next((alias for alias in aliases if path == alias or path.startswith(alias + "/")), None)
        if inside is None:
            raise PermissionError(errno.EACCES, "leads out of the workspace", shown)
        path = path[len(inside) :]
    return [name for name in path.split("/") if name not in ("", ".")]


def _refuse_name(path: str) -> None:
    """What no file can be called; said with a path that can be printed."""
    shown = path.encode(errors="backslashreplace").decode()
    if "\0" in path:
        raise PermissionError(errno.EACCES, "holds a NUL byte", shown)
    try:
        parts = os.fsencode(path).split(b"/")
    except UnicodeEncodeError as error:
        raise PermissionError(errno.EACCES, "is no name that a file can have", shown) from error
    if max(map(len, parts)) > MAX_NAME_BYTES or len(parts) > MAX_PARTS:
        raise PermissionError(errno.EACCES, "is too long for the name of a file", f"{shown[:80]}...")


def _link(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None  # no link, or nothing there: what follows says so


def _enter(folder: int, name: str, shown: str, *, make: bool, owner: int | None) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
            if owner is not None:
                os.chown(name, owner, owner, dir_fd=folder, follow_symlinks=False)
    try:
        return os.open(name, FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(errno.EACCES, "changed while it was read", shown) from error
        raise type(error)(error.errno, error.strerror, shown) from error
