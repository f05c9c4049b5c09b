"""The sandbox protocol: what every back end offers, in values.

A command that fails or runs out of time is an ``ExecResult``. A sandbox that fails raises ``SandboxError``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

WORKSPACE = "/workspace"
"""Where the repository lies inside every isolating sandbox."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path shown inside the sandbox."""

    source: Path
    target: str
    writable: bool = False
    """A bound unix socket is connectable whether or not this is set."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may use. None means no limit."""

    memory_mib: int | None = 4096
    processes: int | None = 256
    cpus: float | None = None
    """CPUs' worth of time in each second, held by container engines only."""
    file_mib: int | None = 1024
    """Largest single file that may be written."""
    open_files: int | None = 1024
    disk_mib: int | None = 4096
    """Workspace and /tmp together, 4 KiB an entry at least. Watched, not reserved, so it can be overshot.

    Looked at every 0.1 to 1 s: a disk that since the command began has lost twice as much (16 times, where each of its
    files can be seen: others write to a disk too), or all but 128 MiB, ends it at the next look. A smaller overshoot
    ends it once all files are counted: half a second for some thousands, longer for more, because the count takes a few
    per cent of one core.
    """


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """All that a sandbox is made of; nothing is taken from the caller's surroundings."""

    workspace: Path
    """Host folder shown at ``WORKSPACE``; the sandbox's only lasting writable place besides /tmp."""
    workspace_writable: bool = True
    binds: tuple[Bind, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Exactly what a command sees besides PATH, HOME, LANG and TMPDIR."""
    limits: Limits = Limits()
    gpus: tuple[str, ...] = ()
    """UUIDs of the leased devices, visible inside and no others."""
    network: bool = False
    image: str | None = None
    """Container image, where the back end has images; None: its default one."""
    name: str = "sandbox"
    """For labels and logs."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the back end really enforces here; a False is said to the user, never papered over."""

    gpu: bool
    network_off: bool
    pid_ns: bool
    mem_limit: str
    """How memory is bounded: "cgroup", "watchdog" or "none"."""
    process_limit: str
    """How the number of processes is bounded: "cgroup", "rlimit" or "none"."""
    readonly: bool
    disk_limit: str
    """How disk use is bounded: "quota", "watchdog" or "none"."""
    secrets_hidden: bool
    """The user's environment variables, home and other processes cannot be read from inside."""


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """Which back end this is and what it can do."""

    backend: str
    capabilities: Capabilities
    python: str
    """What a command must say to run the Python that has the environments' packages."""
    detail: str = ""
    """One line for a person: version, why a capability is missing."""
    image: str = ""
    """Container image, where the back end has images."""
    runtime: str = ""
    """Python and torch of the image, which scores depend on; empty where commands run this machine's own."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command did. stdout and stderr arrive as one stream, in order."""

    exit_code: int
    """128 + signal number when a signal ended it, as in a shell."""
    head: str
    tail: str
    """Head and tail of the output, decoded as UTF-8 with replacement; ``tail`` is empty when nothing was cut."""
    n_bytes: int
    """All bytes that the command wrote, also those that were dropped."""
    timed_out: bool
    """It ran out of wall-clock or CPU time; ``stopped_by`` says which."""
    oom: bool
    duration_s: float
    cpu_s: float
    """User and system time of the whole process tree, counted from outside."""
    survivors_killed: int
    """Processes still alive when the command had ended or was out of time."""
    stopped_by: str = ""
    """Which limit ended it: "", "wall", "cpu", "memory", "disk", "cancel"."""

    @property
    def output(self) -> str:
        """Head and tail with a line between them that says how much is missing."""
        if not self.tail:
            return self.head
        cut = self.n_bytes - len(self.head.encode()) - len(self.tail.encode())
        return f"{self.head}\n[... {max(cut, 0)} bytes left out ...]\n{self.tail}"


class Process(Protocol):
    """A command under way, with its streams; for the evaluator's pipe and for training jobs."""

    stderr_path: Path

    @property
    def stdin(self) -> IO[bytes]:
        """Buffered: flush after each message."""
        ...

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output alone. Standard error goes to ``stderr_path``."""
        ...

    def wait(self, timeout_s: float | None = None) -> ExecResult:
        """Wait for the end; on the deadline the whole tree is killed and the result says so."""
        ...

    def kill(self) -> None:
        """Kill the whole tree now and wait until it is gone. Calling twice is fine."""
        ...

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        ...

    def cpu_s(self) -> float:
        """CPU seconds of the whole tree so far."""
        ...


class Sandbox(Protocol):
    """One sandbox over one workspace. Usable from any thread; one command at a time unless spawned."""

    info: SandboxInfo
    spec: SandboxSpec

    def start(self) -> None:
        """Make it usable.

        Raises:
            SandboxStartError: it cannot be made here; the message says why, the hint what to do.
            CapabilityMissing: the spec asks for what this back end cannot enforce.
        """
        ...

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
        """Run one command to its end or its deadline, whatever it does, and leave no process of it behind.

        Args:
            argv: the command; no shell is added.
            cwd: relative to the workspace.
            env: added to the spec's environment.
            stdin: what it can read.
            timeout_s: wall-clock seconds.
            cpu_s: CPU seconds of the whole tree; None means no limit.
            max_bytes: how much output is kept in the result, half head and half tail.
            log_path: host file that receives the output, up to 64 MiB.
        """
        ...

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
        """Start a command with its streams open; deadline and CPU cap hold as for ``exec``."""
        ...

    def path_of(self, target: str) -> str:
        """What a command must say to reach ``target``: a path under ``WORKSPACE``, /tmp or a bind's target.

        The same path on isolating back ends; the host's path where nothing can be remapped.
        """
        ...

    def read(self, path: str, *, max_bytes: int = 16_777_216) -> bytes:
        """Bytes of a regular file in the workspace.

        Raises:
            FileNotFoundError, IsADirectoryError: as usual.
            PermissionError: the path leads out of the workspace, or to a pipe or a device.
        """
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the workspace, atomically, making folders; never through a link that leads out.

        Raises:
            PermissionError: the path leads out of the workspace.
        """
        ...

    def snapshot(self) -> str:
        """Hash of a git tree that holds the workspace as it is (ignored files and ``out/`` left out).

        Raises:
            PatchRefused: a file is too big to be kept, or there are too many; names it.
        """
        ...

    def restore(self, tree: str) -> None:
        """Make the workspace equal to a snapshot of this sandbox."""
        ...

    def kill_all(self) -> int:
        """Kill whatever runs inside; the number of processes killed."""
        ...

    def close(self) -> None:
        """End it; the workspace folder stays on the host. Calling twice is fine."""
        ...

    def __enter__(self) -> Sandbox: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Patch:
    """The product of an implementation: a diff against the environment's base."""

    base: str
    """Git tree hash of the base repository."""
    diff: str
    """``git diff`` text, empty when nothing changed."""
    files: tuple[str, ...]
    added: int
    removed: int
    sha256: str
    """Of the diff's UTF-8 bytes."""
