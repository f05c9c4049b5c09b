"""Git blobs and trees in a private store, written and read without running git on anything untrusted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xar_agent.errors import PatchRefused, ServiceMissing, StoreError

FILE, PROGRAM, LINK, FOLDER = "100644", "100755", "120000", "40000"
MAX_DEPTH = 64
"""Folders in each other: deep enough for a repository, and no walk of ours runs out of stack or descriptors."""
CONFIG = """[core]
\trepositoryformatversion = 0
\tbare = false
\tquotePath = false
\tautocrlf = false
\texcludesFile = /dev/null
\thooksPath = /dev/null
[gc]
\tauto = 0
"""
ATTRIBUTES = "* -text -ident -filter !diff !merge -working-tree-encoding\n"
"""Outranks every .gitattributes in a tree: content is bytes, and nothing is run on it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree."""

    mode: str
    hash: str


def open_store(store: Path) -> None:
    """Make an empty store where there is none."""
    if (store / "HEAD").exists():
        return
    for folder in ("objects", "refs", "info"):
        (store / folder).mkdir(parents=True, exist_ok=True)
    _put(store / "config", CONFIG.encode())
    _put(store / "info" / "attributes", ATTRIBUTES.encode())
    _put(store / "HEAD", b"ref: refs/heads/none\n")


def git(
    store: Path, *words: str, stdin: bytes = b"", extra: Mapping[str, str] | None = None, ok: tuple[int, ...] = (0,)
) -> tuple[int, bytes, str]:
    """Run git on the store alone: no system, user or repository configuration, no hooks; (exit code, stdout, stderr).

    Raises:
        ServiceMissing: git is not installed.
        StoreError: an exit code that is not in ``ok``.
    """
    nowhere = "/nonexistent"
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "HOME": nowhere,
        "XDG_CONFIG_HOME": nowhere,
        "GIT_DIR": str(store.absolute()),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        **(extra or {}),
    }
    try:
        done = subprocess.run(["git", *words], input=stdin, capture_output=True, env=env, cwd=store, check=False)
    except FileNotFoundError as error:
        raise ServiceMissing("git is not installed", "install git: patches are taken and applied with it") from error
    stderr = done.stderr.decode(errors="replace").strip()
    if done.returncode not in ok:
        raise StoreError(f"git {words[0]} failed: {stderr[:300]}")
    return done.returncode, done.stdout, stderr


def write_blob(store: Path, content: bytes) -> str:
    """Hash of the stored content."""
    return _write(store, "blob", content)


def write_tree(store: Path, entries: Mapping[str, Entry]) -> str:
    """Hash of the tree with these files; the same for the same paths, modes and contents."""
    files: dict[str, Entry] = {}
    folders: dict[str, dict[str, Entry]] = {}
    for path, entry in entries.items():
        top, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(top, {})[rest] = entry
        else:
            files[top] = entry
    for name, below in folders.items():
        files[name] = Entry(FOLDER, write_tree(store, below))
    # Git sorts folders as if their names ended in a slash.
    order = sorted(files, key=lambda name: os.fsencode(name) + (b"/" if files[name].mode == FOLDER else b""))
    rows = (
        files[name].mode.encode() + b" " + os.fsencode(name) + b"\0" + bytes.fromhex(files[name].hash) for name in order
    )
    return _write(store, "tree", b"".join(rows))


def read_blob(store: Path, blob: str) -> bytes:
    """Stored content.

    Raises:
        StoreError: it is not there, or damaged.
    """
    return _read(store, "blob", blob)


def list_tree(store: Path, tree: str, *, depth: int = 0) -> dict[str, Entry]:
    """All files of a tree by path.

    Raises:
        PatchRefused: folders lie too deep in each other.
        StoreError: a part of it is not there, or damaged.
    """
    if depth > MAX_DEPTH:
        raise PatchRefused(f"a path has more than {MAX_DEPTH} folders: too deep", "use fewer folders in each other")
    found: dict[str, Entry] = {}
    data = _read(store, "tree", tree)
    while data:
        head, _, rest = data.partition(b"\0")
        mode, _, raw_name = head.partition(b" ")
        name, value, data = os.fsdecode(raw_name), rest[:20].hex(), rest[20:]
        if mode.decode() == FOLDER:
            found |= {f"{name}/{path}": entry for path, entry in list_tree(store, value, depth=depth + 1).items()}
        else:
            found[name] = Entry(mode.decode(), value)
    return found


def _hash(whole: bytes) -> str:
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()


def _path(store: Path, value: str) -> Path:
    return store / "objects" / value[:2] / value[2:]


def _write(store: Path, kind: str, content: bytes) -> str:
    whole = f"{kind} {len(content)}".encode() + b"\0" + content
    value = _hash(whole)
    path = _path(store, value)
    if not path.exists():
        _put(path, zlib.compress(whole, 1))
    return value


def _put(path: Path, content: bytes) -> None:
    """Write by rename, so that another thread never reads half of it."""
    fresh = path.with_name(f"tmp_{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise StoreError(f"cannot write the snapshot store: {error}", "free some disk space") from error


def _read(store: Path, kind: str, value: str) -> bytes:
    try:
        whole = zlib.decompress(_path(store, value).read_bytes())
    except (OSError, zlib.error) as error:
        raise StoreError(f"{kind} {value} is not in the store, or damaged") from error
    head, _, content = whole.partition(b"\0")
    if _hash(whole) != value or head != f"{kind} {len(content)}".encode():
        raise StoreError(f"{kind} {value} is not in the store, or damaged")
    return content
