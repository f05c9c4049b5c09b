"""Trees to patches and back: text only, exact, inside the repository, nothing that runs by its mere name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from xar_agent.envs.globs import matches
from xar_agent.errors import PatchRefused
from xar_agent.sandbox import objects
from xar_agent.sandbox.held import HeldFolder
from xar_agent.sandbox.objects import FILE, LINK, Entry
from xar_agent.sandbox.protocol import Patch

MAX_FILE_BYTES = 1 << 20
MAX_DIFF_BYTES = 4 << 20
SELF_RUNNING = ("conftest.py", "sitecustomize.py", "usercustomize.py")
"""Python runs these without being asked: a patch may not bring them."""
MAKE_ONE = "make it with git diff against the environment's base"


def diff(store: Path, base: str, tree: str) -> Patch:
    """What has to be done to ``base`` to get ``tree``; changed permissions are left out.

    Raises:
        PatchRefused: a changed file is binary, a link or too big; names it.
    """
    before = objects.list_tree(store, base)
    after = {
        path: entry if entry.mode == LINK else Entry(before[path].mode if path in before else FILE, entry.hash)
        for path, entry in objects.list_tree(store, tree).items()
    }
    paths = _changed(before, after)
    for path in paths:
        _check(store, path, before.get(path), after.get(path))
    target = objects.write_tree(store, after)
    words = ("--no-renames", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", base, target)
    _, text, _ = objects.git(store, "diff-tree", "-r", "-p", "--full-index", "--no-color", *words)
    _, counts, _ = objects.git(store, "diff-tree", "-r", "--numstat", "-z", *words)
    rows = [row.split(b"\t", 2) for row in counts.split(b"\0") if row]
    return Patch(
        base=base,
        diff=text.decode(),
        files=tuple(paths),
        added=sum(int(row[0]) for row in rows),
        removed=sum(int(row[1]) for row in rows),
        sha256=hashlib.sha256(text).hexdigest(),
    )


def apply_patch(store: Path, base: str, diff: str) -> str:
    """Tree hash of ``base`` with the diff applied, context lines exactly as they are there.

    Raises:
        PatchRefused: it does not apply, or brings binaries, links, modes or names that are not allowed.
    """
    objects.open_store(store)
    if not diff.strip():
        return base
    content = diff.encode(errors="surrogateescape")
    if len(content) > MAX_DIFF_BYTES:
        raise PatchRefused(f"the patch is too big: more than {MAX_DIFF_BYTES >> 20} MiB", "leave out generated files")
    if b"\0" in content:
        raise PatchRefused("the patch holds a NUL byte", MAKE_ONE)
    if not content.endswith(b"\n"):
        content += b"\n"
    with HeldFolder("index") as folder:
        extra = {"GIT_INDEX_FILE": str(folder / "index")}
        objects.git(store, "read-tree", base, extra=extra)
        words = ("apply", "--cached", "--whitespace=nowarn", "-")
        code, _, said = objects.git(store, *words, stdin=content, extra=extra, ok=(0, 1, 128))
        if code != 0:
            first = said.splitlines()[0].removeprefix("error: ").removeprefix("fatal: ") if said else "unknown reason"
            raise PatchRefused(f"the patch does not apply: {first}", MAKE_ONE)
        tree = objects.git(store, "write-tree", extra=extra)[1].decode().strip()
    before, after = objects.list_tree(store, base), objects.list_tree(store, tree)
    for path in _changed(before, after):
        _check(store, path, before.get(path), after.get(path))
        if path not in before:
            _refuse_name(path)
    return tree


def protect(patch_files: Sequence[str], editable: Sequence[str], protected: Sequence[str]) -> None:
    """Check that a patch stays where it may edit.

    Raises:
        PatchRefused: it touches another file; names it, the hint says what may be edited.
    """
    for path in patch_files:
        _refuse_name(path)
        if matches(path, protected):
            raise PatchRefused(f"the patch touches the protected file {path}", f"editable: {', '.join(editable)}")
        if not matches(path, editable):
            raise PatchRefused(f"the patch touches {path}, which is not editable", f"editable: {', '.join(editable)}")


def _changed(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def _check(store: Path, path: str, before: Entry | None, after: Entry | None) -> None:
    """A change that a text patch can hold."""
    if any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) < 0xE000 for letter in path):
        raise PatchRefused(f"{os.fsencode(path)!r} is no plain file name", "use letters, digits, - _ . and /")
    for entry in filter(None, (before, after)):
        if entry.mode == LINK:
            raise PatchRefused(f"{path} is a link", "put a regular file there")
        if entry.mode not in (objects.FILE, objects.PROGRAM):
            raise PatchRefused(f"{path} is no regular file", "put a regular file there")
    if after is not None and after.mode != (before.mode if before is not None else FILE):
        raise PatchRefused(f"the patch changes the permissions of {path}", "leave modes as they are; new files: 100644")
    for entry in filter(None, (before, after)):
        content = objects.read_blob(store, entry.hash)
        if len(content) > MAX_FILE_BYTES:
            raise PatchRefused(f"{path} is too big for a patch: {len(content)} bytes", "write data to out/")
        if not _is_text(content):
            raise PatchRefused(f"{path} is binary", "a patch holds text only; write data to out/")


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _refuse_name(path: str) -> None:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise PatchRefused(f"{path} leads out of the repository", MAKE_ONE)
    if parts and (parts[-1].lower() in SELF_RUNNING or parts[-1].lower().endswith(".pth")):
        raise PatchRefused(
            f"a patch may not bring {path}: Python would run it unasked", "put the code where it is used"
        )
    if any(part.lower().startswith(".git") for part in parts):
        raise PatchRefused(f"a patch may not touch {path}", "leave git's own files alone")
