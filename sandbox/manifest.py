"""What protected files looked like: SHA-256, mode and link target, compared after untrusted code has run."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xar_agent.sandbox.globs import matches


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
    """Describe all files below ``folder`` that match; links are not followed, pipes and devices not opened."""
    found: dict[str, str] = {}
    for parent, folders, names in os.walk(folder, followlinks=False):
        linked = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*names, *linked):
            path = str(Path(parent, name).relative_to(folder))
            if matches(path, globs):
                found[path] = _describe(Path(parent, name))
    return Manifest(tuple(globs), dict(sorted(found.items())))


def verify_manifest(folder: Path, expected: Manifest) -> tuple[str, ...]:
    """What differs, one line each: changed, missing and new files. Empty: all as it was."""
    now = manifest(folder, expected.globs).files
    changed = [f"{path} has changed" for path in expected.files if path in now and now[path] != expected.files[path]]
    missing = [f"{path} is missing" for path in expected.files if path not in now]
    return (*changed, *missing, *(f"{path} is new" for path in now if path not in expected.files))


def _describe(path: Path) -> str:
    try:
        known = path.lstat()
        if stat.S_ISLNK(known.st_mode):
            return f"link {path.readlink()}"
        if not stat.S_ISREG(known.st_mode):
            return f"special {stat.S_IFMT(known.st_mode):o}"
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return f"file {stat.S_IMODE(known.st_mode):o} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        return f"unreadable {error.strerror}"
