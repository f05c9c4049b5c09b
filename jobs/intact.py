"""Whether a data set is as its manifest says: small files are read each time, large ones when they may have changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from xar_agent.errors import StoreError
from xar_agent.store import write_atomic

MANIFEST = "MANIFEST.json"
LARGE_BYTES = 32 << 20
"""Smaller files cost less than 0.1 s."""
SETTLE_S = 2.0
"""Some file systems count time in seconds: a change within the same one would not show in the stamp."""
CHUNK_BYTES = 8 << 20

Heard = Callable[[int, int], None]
"""Hears how many bytes of large files have been read, and of how many."""


def verify(folder: Path, heard: Heard | None = None) -> str | None:
    """Digest of the manifest when every file is as the manifest says, else None.

    A large file whose digest was right counts as unchanged while its size, inode and times are what they were then.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        digest = hashlib.sha256(text).hexdigest()
        known = read_stamps(folder, digest)
        found = check_files(folder, json.loads(text), known, heard)
    except (OSError, ValueError, AttributeError):
        return None
    if found is None:
        return None
    if found != known:
        write_stamps(folder, digest, found)
    return digest


def look(folder: Path) -> str | None:
    """Digest of the manifest when every file that it names is there; nothing is read through."""
    try:
        text = (folder / MANIFEST).read_bytes()
        present = all((folder / name).is_file() for name in json.loads(text))
    except (OSError, ValueError, TypeError):
        return None
    return hashlib.sha256(text).hexdigest() if present else None


def check_files(
    folder: Path, digests: dict[str, str], known: dict[str, list[int]], heard: Heard | None
) -> dict[str, list[int]] | None:
    """Stamps of the large files when every file has its digest, else None."""
    stamps = {name: stamp_of(folder / name) for name in digests}
    large = {name: stamp for name, stamp in stamps.items() if stamp[0] >= LARGE_BYTES}
    unread = {name: stamp[0] for name, stamp in large.items() if known.get(name) != stamp}
    settle(large[name] for name in unread)
    done, total = 0, sum(unread.values())

    def grow(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if heard:
            heard(done, total)

    for name, digest in digests.items():
        if name in large and name not in unread:
            continue
        if sha256_of(folder / name, grow if name in unread else None) != digest:
            return None
    return large


def settle(stamps: Iterable[list[int]]) -> None:
    """Wait until no later change of these files can have the same times."""
    newest = max((stamp[-1] for stamp in stamps), default=0)
    time.sleep(min(max(newest / 1e9 + SETTLE_S - time.time(), 0.0), SETTLE_S) if newest else 0.0)


def stamp_of(path: Path) -> list[int]:
    """Size, device, inode and times of a file; any write changes the last one."""
    found = path.stat()
    return [found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def sha256_of(path: Path, heard: Callable[[int], None] | None = None) -> str:
    """Digest of a file's bytes, hexadecimal; ``heard`` is told of each piece how many bytes it has."""
    state = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            if heard:
                heard(len(chunk))
    return state.hexdigest()


def stamps_path(folder: Path) -> Path:
    """Where the stamps lie: beside the data set, which nobody changes."""
    return folder.with_name(f"{folder.name}.stamps.json")


def read_stamps(folder: Path, digest: str) -> dict[str, list[int]]:
    """Stamps of the files that were right under this manifest; none when there is no such record."""
    try:
        kept: Any = json.loads(stamps_path(folder).read_text())
        return dict(kept["files"]) if kept["manifest"] == digest else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_stamps(folder: Path, digest: str, stamps: dict[str, list[int]]) -> None:
    """Keep them for the next start; where the cache cannot be written, the files are read again then."""
    if stamps and os.access(folder.parent, os.W_OK):
        with suppress(StoreError):
            write_atomic(stamps_path(folder), json.dumps({"manifest": digest, "files": stamps}) + "\n")
