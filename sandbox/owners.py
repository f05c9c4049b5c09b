"""Whose files a sandbox's files are: as root, commands run as another user, to whom its folders are given."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from xar_agent.errors import SandboxStartError
from xar_agent.sandbox import files
from xar_agent.sandbox.protocol import WORKSPACE, Bind

FIRST_INNER_UID = 0x30000000
INNER_UIDS = 0x30000000
"""A range that no distribution hands out, so that a sandbox shares its process count and files with nobody."""


def drops_to_other_uid() -> bool:
    """Whether we are a root that may become other users; a root of a one-user namespace is an ordinary user."""
    return os.geteuid() == 0 and _mapped_uids() > 65_000


def _mapped_uids() -> int:
    lines = Path("/proc/self/uid_map").read_text().split("\n")
    first, _, count = map(int, lines[0].split())
    return count if first == 0 else 0


def inner_uid(workspace: Path) -> int:
    """The id that commands run under when we are root: the one that the workspace has already, else a new one."""
    wide = _mapped_uids() > FIRST_INNER_UID + INNER_UIDS
    first, count = (FIRST_INNER_UID, INNER_UIDS) if wide else (20_000, 40_000)
    known = workspace.stat().st_uid
    return known if first <= known < first + count else first + secrets.randbelow(count)


def make_reachable(bind: Bind, workspace: Path, owner: int | None) -> None:
    """The inner user may use the bind, and there is something to mount it on.

    Raises:
        SandboxStartError: that user cannot read it.
    """
    known = bind.source.stat()
    is_folder = stat.S_ISDIR(known.st_mode)
    if owner is not None and bind.writable and is_folder:
        files.own_tree(bind.source, owner)
    elif owner is not None and (bind.writable or stat.S_ISSOCK(known.st_mode)):
        os.chown(bind.source, owner, owner)
    elif owner is not None and not known.st_mode & stat.S_IROTH and known.st_uid != owner:
        raise SandboxStartError(f"{bind.source} cannot be read by the sandbox's user", f"chmod -R o+rX {bind.source}")
    if bind.target.startswith(WORKSPACE + "/"):
        inside = bind.target[len(WORKSPACE) + 1 :]
        if is_folder:
            files.make_folder(workspace, inside, owner=owner)
        elif not (workspace / inside).exists():
            files.write_file(workspace, inside, b"", owner=owner)
