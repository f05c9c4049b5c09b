"""What protected files looked like: SHA-256, mode and link target, compared after untrusted code has run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xar_agent.envs.globs import matches
from xar_agent.sandbox import files
from xar_agent.sandbox.walk import Found, opened, walk


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a folder that match ``globs``."""

    globs: tuple[str, ...]
    files: Mapping[str, str]
    """Path to ``file MODE SHA256`` or ``link TARGET``; other kinds by their name."""

    @property
    def digest(self) -> str:
        """One hash for all of it."""
        rows = "".join(f"{path}\0{value}\n" for path, value in sorted(self.files.items()))
        return hashlib.sha256(os.fsencode(rows)).hexdigest()


def manifest(folder: Path, globs: Sequence[str]) -> Manifest:
    """Describe all files below ``folder`` that match; links are not followed, pipes and devices not opened.

    Raises:
        PatchRefused: a folder lies too deep or cannot be read; names it.
    """
    described: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError), opened(folder) as root:
        for found in walk(root, every=True):
            if matches(found.path, globs):
                described[found.path] = _describe(found)
    return Manifest(tuple(globs), dict(sorted(described.items())))


def verify_manifest(folder: Path, expected: Manifest) -> tuple[str, ...]:
    """What differs, one line each: changed, missing and new files. Empty: all as it was."""
    now = manifest(folder, expected.globs).files
    changed = [f"{path} has changed" for path in expected.files if path in now and now[path] != expected.files[path]]
    missing = [f"{path} is missing" for path in expected.files if path not in now]
    return (*changed, *missing, *(f"{path} is new" for path in now if path not in expected.files))


def _describe(found: Found) -> str:
    mode = found.known.st_mode
    try:
        if stat.S_ISLNK(mode):
            return f"link {os.readlink(found.name, dir_fd=found.folder)}"
        if not stat.S_ISREG(mode):
            return f"special {stat.S_IFMT(mode):o}"
        with os.fdopen(files.open_regular(found.folder, found.name, found.path), "rb") as file:
            return f"file {stat.S_IMODE(mode):o} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        return f"unreadable {error.strerror}"
