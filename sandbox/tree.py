"""The workspace as git trees: snapshots, restores, clean checkouts.

Nothing of git runs on the workspace itself, so a .git folder, attributes, hooks or links planted there have no effect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xar_agent.envs.globs import matches
from xar_agent.errors import PatchRefused
from xar_agent.sandbox import files, folders, objects
from xar_agent.sandbox.manifest import Manifest, manifest, verify_manifest
from xar_agent.sandbox.objects import FILE, LINK, PROGRAM, Entry
from xar_agent.sandbox.patches import apply_patch, diff, protect
from xar_agent.sandbox.walk import Found, always_ignored, opened, shown, walk

__all__ = [
    "Manifest",
    "apply_patch",
    "checkout",
    "diff",
    "make_base",
    "manifest",
    "matches",
    "protect",
    "restore",
    "snapshot",
    "verify_manifest",
]

MAX_FILE_BYTES = 64 << 20
MAX_FILES = 20_000
MAX_TREE_BYTES = 512 << 20


def make_base(repo_dir: Path, store: Path) -> str:
    """Tree hash of the environment's repository; its .gitignore files rule all later snapshots in this store."""
    objects.open_store(store)
    base = _store_folder(store, repo_dir, skip=frozenset())
    (store / "xar-base").write_text(base)
    return base


def snapshot(store: Path, workspace: Path) -> str:
    """Tree hash of the workspace as it is: untracked files count; ignored ones, out/ and caches do not.

    The first snapshot of a store without a base is its base.

    Raises:
        PatchRefused: a file is too big to be kept, or there are too many; names it.
    """
    if not (store / "xar-base").exists():
        return make_base(workspace, store)
    return _store_folder(store, workspace, skip=_ignored(store, _base_of(store, workspace), workspace))


def checkout(store: Path, tree: str, dest: Path) -> None:
    """Write a tree to a new or empty folder, readable by everyone whatever the umask.

    Raises:
        FileExistsError: ``dest`` holds something.
    """
    dest.mkdir(parents=True, exist_ok=True)
    dest.chmod(0o755)
    if any(dest.iterdir()):
        raise FileExistsError(errno.EEXIST, "is not empty", str(dest))
    _write_entries(store, objects.list_tree(store, tree), dest, owner=None)


def restore(store: Path, tree: str, workspace: Path, *, owner: int | None = None) -> None:
    """Make the workspace equal to a tree; ignored files stay. What is written belongs to ``owner``."""
    wanted = objects.list_tree(store, tree)
    missing = dict(wanted)
    with opened(workspace) as root:
        for _ in walk(root, mend=True):
            pass  # from here on every folder can be entered and changed
        for found in walk(root, _ignored(store, _base_of(store, workspace), workspace)):
            if found.path not in wanted:
                os.unlink(found.name, dir_fd=found.folder)
            elif _is(store, found, wanted[found.path]):
                del missing[found.path]
        _remove_empty_folders(root)
    _write_entries(store, missing, workspace, owner=owner)


def _base_of(store: Path, workspace: Path) -> str:
    """Tree hash of the store's base; the workspace as it is becomes the base of a store without one."""
    note = store / "xar-base"
    return note.read_text() if note.exists() else make_base(workspace, store)


def _is(store: Path, found: Found, wanted: Entry) -> bool:
    try:
        return _store_file(store, found) == wanted
    except PatchRefused:
        return False  # too big or unreadable: not what we want, and replaced


def _store_folder(store: Path, folder: Path, *, skip: frozenset[str]) -> str:
    entries: dict[str, Entry] = {}
    size = 0
    with opened(folder) as root:
        for found in walk(root, skip):
            entry = _store_file(store, found)
            size += found.known.st_size if stat.S_ISREG(found.known.st_mode) else 0
            if entry is not None:
                entries[found.path] = entry
            if len(entries) > MAX_FILES or size > MAX_TREE_BYTES:
                most = f"{MAX_FILES} files or {MAX_TREE_BYTES >> 20} MiB"
                raise PatchRefused(f"more than {most} in the workspace", "write what is generated to out/")
    return objects.write_tree(store, entries)


def _store_file(store: Path, found: Found) -> Entry | None:
    mode = found.known.st_mode
    try:
        if stat.S_ISLNK(mode):
            target = os.readlink(found.name, dir_fd=found.folder)
            return Entry(LINK, objects.write_blob(store, os.fsencode(target)))
        if not stat.S_ISREG(mode):
            return None  # pipes, sockets: nothing that a patch could hold
        fd = _open_ours(found)
    except (FileNotFoundError, IsADirectoryError):
        return None  # it changed under our hands
    except PermissionError as error:
        raise PatchRefused(f"{shown(found.path)} cannot be read", "give its owner's rights back") from error
    try:
        content = files.read_bounded(fd, found.path, MAX_FILE_BYTES)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        hint = "write what is generated to out/"
        raise PatchRefused(f"{found.path} is too big: more than {MAX_FILE_BYTES >> 20} MiB", hint) from error
    finally:
        os.close(fd)
    return Entry(PROGRAM if mode & stat.S_IXUSR else FILE, objects.write_blob(store, content))


def _open_ours(found: Found) -> int:
    """A descriptor of a regular file, made readable where its owner took that right away."""
    try:
        return files.open_regular(found.folder, found.name, found.path)
    except PermissionError:
        folders.allow(found.folder, found.name, 0o400)
        return files.open_regular(found.folder, found.name, found.path)


def _ignored(store: Path, base: str, workspace: Path) -> frozenset[str]:
    """Paths that the base's .gitignore files leave out; what the base holds is never left out."""
    entries = objects.list_tree(store, base)
    rules = {path: entry for path, entry in entries.items() if path.rpartition("/")[2] == ".gitignore"}
    if not rules:
        return frozenset()
    folder = _rules_folder(store, base, rules)
    with opened(workspace) as root:
        paths = [found.path for found in walk(root) if found.path not in entries]
    _, out, _ = objects.git(
        store,
        *("check-ignore", "--no-index", "-z", "--stdin"),
        stdin=b"".join(os.fsencode(path) + b"\0" for path in paths),
        extra={"GIT_WORK_TREE": str(folder.absolute())},
        ok=(0, 1),
    )
    return frozenset(os.fsdecode(path) for path in out.split(b"\0") if path)


def _rules_folder(store: Path, base: str, rules: dict[str, Entry]) -> Path:
    """Folder with a base's .gitignore files; it appears whole, whatever else is at work or was cut off."""
    folder = store / "ignore" / base
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        _write_entries(store, rules, made, owner=None)
        try:
            made.rename(folder)
        except OSError as error:
            files.remove_tree(made)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another thread was faster
                raise
    return folder


def _write_entries(store: Path, entries: dict[str, Entry], dest: Path, *, owner: int | None) -> None:
    dest.mkdir(parents=True, exist_ok=True)
    with opened(dest) as root:
        for path, entry in sorted(entries.items()):
            content = objects.read_blob(store, entry.hash)
            with _inside(root, path, make=True, owner=owner) as (folder, name):
                _clear(folder, name)
                if entry.mode == LINK:
                    os.symlink(os.fsdecode(content), name, dir_fd=folder)
                    if owner is not None:
                        os.chown(name, owner, owner, dir_fd=folder, follow_symlinks=False)
                else:
                    mode = 0o755 if entry.mode == PROGRAM else 0o644
                    files.replace_file(folder, name, content, mode=mode, owner=owner)


def _clear(folder: int, name: str) -> None:
    """Remove a folder or link that lies where a file shall be."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            folders.remove_folder(folder, name)
        elif not stat.S_ISREG(mode):
            os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _inside(root: int, path: str, *, make: bool, owner: int | None) -> Iterator[tuple[int, str]]:
    """The open folder of a path of a tree, with no link on the way; ``make`` replaces whatever is in the way."""
    *above, name = path.split("/")
    fds = [os.dup(root)]
    try:
        for part in above:
            if make:
                _make_folder(fds[-1], part, owner)
            fds.append(os.open(part, folders.FOLDER, dir_fd=fds[-1]))
        yield fds[-1], name
    finally:
        for fd in fds:
            os.close(fd)


def _make_folder(folder: int, name: str, owner: int | None) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=folder)
        fd = os.open(name, folders.FOLDER, dir_fd=folder)
        try:
            os.fchmod(fd, 0o755)
            if owner is not None:
                os.fchown(fd, owner, owner)
        finally:
            os.close(fd)


def _remove_empty_folders(folder: int, *, top: bool = True) -> None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        if always_ignored(name, top=top):
            continue
        with contextlib.suppress(OSError):  # not empty, or gone: then it stays
            below = os.open(name, folders.FOLDER, dir_fd=folder)
            try:
                _remove_empty_folders(below, top=False)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=folder)
