"""What the tools stand on: the sandbox with the repository, and what the model has seen and tested of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import posixpath
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from xar_agent.errors import PatchRefused
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.types import SmokeReport
from xar_agent.sandbox import objects, tree
from xar_agent.sandbox.protocol import WORKSPACE, Patch, Sandbox
from xar_agent.tools.observation import Observation, refusal

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Larger files are data: no tool shows or edits them."""


class Refused(Exception):
    """A tool's expected failure on its way to becoming an observation; it never leaves the tools room."""

    def __init__(self, observation: Observation) -> None:
        super().__init__(observation.text)
        self.observation = observation


def within_budget() -> str:
    """No limit has been reached."""
    return ""


@dataclass(slots=True)
class Workspace:
    """One episode's repository. Used by one thread at a time."""

    sandbox: Sandbox
    bench: Bench
    logs: Path
    """Host folder for whole outputs and smoke logs."""
    cancel: threading.Event = field(default_factory=threading.Event)
    submits: bool = True
    """False: the episode ends with a passing smoke test, and nothing is submitted."""
    over_budget: Callable[[], str] = within_budget
    """Says which limit is reached, or ""."""
    smoke: SmokeReport | None = None
    """The last smoke test's report."""
    seen: dict[str, str] = field(default_factory=dict)
    """Path -> sha256 of the content that the model last read or wrote."""
    commands: int = 0

    def relative(self, path: str) -> str:
        """The path relative to the workspace.

        Raises:
            Refused: OUTSIDE_WORKSPACE.
        """
        inside = path.strip()
        for root in (WORKSPACE, self.sandbox.path_of(WORKSPACE)):
            if inside == root or inside.startswith(f"{root}/"):
                inside = inside.removeprefix(root).lstrip("/") or "."
        inside = posixpath.normpath(inside or ".")
        if inside.startswith(("/", "../")) or inside == ".." or "\0" in inside:
            raise Refused(refusal("OUTSIDE_WORKSPACE", f"{path!r} is not in the repository", "give a relative path"))
        return inside

    def read_bytes(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            Refused: NOT_FOUND, IS_DIR, OUTSIDE_WORKSPACE or TOO_LARGE.
        """
        try:
            return self.sandbox.read(path, max_bytes=MAX_FILE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise Refused(
                refusal("NOT_FOUND", f"there is no file {path}", 'search with pattern "" lists files')
            ) from None
        except IsADirectoryError:
            raise Refused(refusal("IS_DIR", f"{path} is a folder", 'search with pattern "" lists its files')) from None
        except OSError as error:
            if error.errno == errno.EFBIG:
                said = f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB"
                raise Refused(refusal("TOO_LARGE", said, "look at it with bash")) from None
            raise Refused(refusal("OUTSIDE_WORKSPACE", f"{path} cannot be read: {error.strerror}")) from None

    def read_text(self, path: str) -> str:
        """Content of a text file.

        Raises:
            Refused: as ``read_bytes``, and BINARY.
        """
        content = self.read_bytes(path)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise Refused(refusal("BINARY", f"{path} is not a text file", "look at it with bash"))
        return text

    def write_text(self, path: str, text: str) -> None:
        """Write a file and remember that the model knows its content.

        Raises:
            Refused: OUTSIDE_WORKSPACE.
        """
        try:
            self.sandbox.write(path, text.encode("utf-8", "replace"))
        except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
            raise Refused(refusal("OUTSIDE_WORKSPACE", f"{path} cannot be written: {error}")) from None
        self.remember(path, text)

    def remember(self, path: str, text: str) -> None:
        """The model now knows this content of the file."""
        self.seen[path] = content_key(text)

    def is_stale(self, path: str, text: str) -> bool:
        """True when the file differs from what the model last saw of it."""
        return path in self.seen and self.seen[path] != content_key(text)

    def require_editable(self, path: str) -> None:
        """Let only files pass that a patch may touch.

        Raises:
            Refused: PROTECTED.
        """
        rules = self.bench.env.file
        try:
            tree.protect([path], rules.editable, rules.protected)
        except PatchRefused as error:
            allowed = ", ".join(rules.editable)
            raise Refused(refusal("PROTECTED", error.message, f"what you may change or add: {allowed}")) from None

    def tree(self) -> str:
        """Hash of the repository as it is now, kept in the run's store.

        Raises:
            PatchRefused: it holds what no tree can hold, such as a huge file.
        """
        return tree.snapshot(self.bench.git_store, self.sandbox.spec.workspace)

    def patch(self) -> Patch:
        """All changes since the environment's base.

        Raises:
            PatchRefused: it touches what is not editable, or holds what a patch may not hold.
        """
        return self.bench.diff(self.tree())


def allowed_part(bench: Bench, tree_hash: str) -> Patch:
    """What of a tree a patch may hold; the rest is left out. For recording an episode that ended badly."""
    try:
        return bench.diff(tree_hash)
    except PatchRefused:
        pass
    kept = dict(objects.list_tree(bench.git_store, bench.base_tree))
    found = objects.list_tree(bench.git_store, tree_hash)
    for path in sorted(kept.keys() | found.keys()):
        if kept.get(path) == found.get(path):
            continue
        trial = {name: entry for name, entry in kept.items() if name != path}
        if path in found:
            trial[path] = found[path]
        with contextlib.suppress(PatchRefused):
            bench.diff(objects.write_tree(bench.git_store, trial))
            kept = trial
    return bench.diff(objects.write_tree(bench.git_store, kept))


def content_key(text: str) -> str:
    """Equal for equal contents."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
