"""What every back end shares: files and snapshots on the host's side of the workspace, and the life of its commands."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from xar_agent.errors import SandboxLost, SandboxStartError
from xar_agent.sandbox import cgroup, files, folders, held, tree
from xar_agent.sandbox.held import HeldFolder
from xar_agent.sandbox.launch import command_words, refusal, why_unstartable
from xar_agent.sandbox.protocol import WORKSPACE, ExecResult, Process, SandboxInfo, SandboxSpec

STDERR_KEPT = 65_536


@dataclass(frozen=True, slots=True)
class Order:
    """One command as a back end is told to start it."""

    words: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    timeout_s: float
    cpu_s: float | None
    keep_bytes: int
    log_path: Path | None
    stdin: bytes | None
    """None opens stdin and stdout as pipes; then the log takes standard error alone."""


class Running(Process, Protocol):
    """A command under way, as its sandbox sees it."""

    def end(self) -> int:
        """Kill it; how many processes that ended."""
        ...

    def close(self) -> None:
        """Kill it and close its streams."""
        ...


class HostSandbox(ABC):
    """A sandbox whose workspace is a folder of this machine."""

    info: SandboxInfo
    sweeps = True
    """Whether a start removes what dead drivers have left; a look at what works here changes nothing."""

    def __init__(self, spec: SandboxSpec) -> None:
        self.spec = replace(spec, workspace=spec.workspace.resolve())  # a link may come to lead elsewhere
        self.owner: int | None = None
        """User id that owns what the host writes for the sandbox; None: our own."""
        self._support: Path | None = None
        self._running: list[Running] = []
        self._state = threading.RLock()
        self._one_command = threading.Lock()
        self._closed = False
        self.undo = contextlib.ExitStack()
        """What ``prepare`` made outside its folder, taken away at the end."""

    @abstractmethod
    def prepare(self, support: Path) -> None:
        """Make what commands need under ``support``, a private folder of this sandbox."""

    @abstractmethod
    def begin(self, order: Order) -> Running:
        """Start a command."""

    @abstractmethod
    def path_of(self, target: str) -> str:
        """What a command must say to reach ``target``."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """All that a command sees, before ``env`` of the call."""

    @property
    def support(self) -> Path:
        """The private folder with /tmp and the snapshots.

        Raises:
            SandboxLost: the sandbox is closed or was never started.
        """
        if self._support is None or self._closed:
            raise SandboxLost(f"sandbox {self.spec.name!r} is {'closed' if self._closed else 'not started'}")
        return self._support

    def start(self) -> None:
        """Make it usable. Calling twice is fine."""
        with self._state:
            if self._support is not None:
                return
            if not self.spec.workspace.is_dir():
                raise SandboxStartError(f"there is no workspace folder {self.spec.workspace}")
            for bind in self.spec.binds:
                if not bind.source.exists():
                    raise SandboxStartError(f"{bind.source} is to be shown at {bind.target} but does not exist")
            if self.sweeps:
                held.sweep(Path(tempfile.gettempdir()))
                cgroup.sweep()
            self._held = HeldFolder("sandbox")
            support = self._held.path
            try:
                (support / "tmp").mkdir(mode=0o700)
                self.prepare(support)
            except BaseException:
                self.undo.close()
                self._held.close()
                raise
            self._support = support

    def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 120.0,
        cpu_s: float | None = None,
        max_bytes: int = 65_536,
        log_path: Path | None = None,
    ) -> ExecResult:
        """Run one command to its end or its deadline; see the protocol."""
        with self._one_command:
            process = self._begin(argv, cwd, env, timeout_s, cpu_s, max_bytes, log_path, stdin)
            try:
                return process.wait()
            finally:
                self._forget(process)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 3600.0,
        cpu_s: float | None = None,
        stderr_path: Path,
    ) -> Process:
        """Start a command with its streams open; see the protocol."""
        return self._begin(argv, cwd, env, timeout_s, cpu_s, STDERR_KEPT, stderr_path, None)

    def _begin(
        self,
        argv: Sequence[str],
        cwd: str,
        env: Mapping[str, str] | None,
        timeout_s: float,
        cpu_s: float | None,
        keep_bytes: int,
        log_path: Path | None,
        stdin: bytes | None,
    ) -> Running:
        words, own = command_words(argv), self.environment()
        variables = {**own, **(env or {})}
        why = why_unstartable(words, cwd, variables)
        if why:
            words, cwd, variables = refusal(why), "", own
        order = Order(words, cwd, variables, timeout_s, cpu_s, keep_bytes, log_path, stdin)
        with self._state:
            if self.spec.workspace_writable:
                folders.unlock(self.spec.workspace)
            folders.unlock(self.support / "tmp")
            process = self.begin(order)
            self._running.append(process)
            return process

    def _forget(self, process: Running) -> None:
        process.close()
        with self._state:
            if process in self._running:
                self._running.remove(process)

    def read(self, path: str, *, max_bytes: int = 16_777_216) -> bytes:
        """Bytes of a regular file in the workspace; see the protocol."""
        return files.read_file(self._open_workspace(), path, max_bytes=max_bytes, aliases=self._aliases())

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the workspace; see the protocol."""
        files.write_file(self._open_workspace(), path, content, aliases=self._aliases(), owner=self.owner)

    def snapshot(self) -> str:
        """Hash of a git tree that holds the workspace as it is."""
        return tree.snapshot(self.support / "snapshots", self.spec.workspace)

    def restore(self, tree_hash: str) -> None:
        """Make the workspace equal to a snapshot of this sandbox."""
        tree.restore(self.support / "snapshots", tree_hash, self.spec.workspace, owner=self.owner)

    def kill_all(self) -> int:
        """Kill whatever runs inside; the number of processes killed."""
        with self._state:
            running = list(self._running)
        return sum(process.end() for process in running)

    def close(self) -> None:
        """End it; the workspace folder stays on the host. Calling twice is fine."""
        with self._state:
            running, self._running = self._running, []
            support, closed, self._closed = self._support, self._closed, True
        try:
            for process in running:
                process.close()
        finally:
            if support is not None and not closed:
                self.undo.close()
                self._held.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_workspace(self) -> Path:
        assert self.support
        return self.spec.workspace

    def _aliases(self) -> tuple[str, ...]:
        return tuple({WORKSPACE, self.path_of(WORKSPACE)})
