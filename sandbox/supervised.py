"""One command under its supervisor, seen from the host: start it, follow it, end it, take its result."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from xar_agent.errors import SandboxLost
from xar_agent.sandbox import cgroup
from xar_agent.sandbox.launch import Launch, supervisor_job
from xar_agent.sandbox.protocol import ExecResult

LATE_S = 8.0
"""A supervisor answers within its deadline plus the time the kernel takes to end a tree; later it is broken itself."""
REAPER = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); from reaper import supervise; supervise.main()"


class SupervisedProcess:
    """A command under way. Its tree ends with it, with us, or with its deadline, whichever is first."""

    def __init__(
        self,
        launch: Launch,
        *,
        timeout_s: float,
        cpu_s: float | None,
        keep_bytes: int,
        log_path: Path | None,
        stdin: bytes | None,
    ) -> None:
        """Start it. ``stdin`` None opens stdin and stdout as pipes; then the log takes standard error alone."""
        self._lock = threading.Lock()
        self._pipes = threading.Lock()
        self._result: ExecResult | None = None
        self._lost: SandboxLost | None = None
        self._deadline = time.monotonic() + timeout_s
        self._cgroup = launch.cgroup
        self._buffer = bytearray()
        self.stderr_path = log_path or Path(os.devnull)
        job = marshal.dumps(supervisor_job(launch, timeout_s, cpu_s, keep_bytes, merge=stdin is not None))
        with contextlib.ExitStack() as ours:

            def passed(fd: int) -> int:
                """The supervisor has its own copy once it runs."""
                ours.callback(os.close, fd)
                return fd

            log = -1 if log_path is None else passed(open_log(log_path))
            self._meter, self._errors = os.memfd_create("meter"), os.memfd_create("errors")
            control, self._control = os.pipe()
            self._status, status = os.pipe()
            self._reaper = _start_supervisor(
                [passed(control), passed(status), self._meter, log],
                stdin=subprocess.PIPE if stdin is None else passed(as_file(stdin)),
                stdout=subprocess.PIPE if stdin is None else subprocess.DEVNULL,
                stderr=self._errors,
            )
        self._tell(b"%d\n" % len(job) + job)

    @property
    def stdin(self) -> IO[bytes]:
        """Open pipe of a spawned command."""
        assert self._reaper.stdin is not None
        return self._reaper.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Open pipe of a spawned command."""
        assert self._reaper.stdout is not None
        return self._reaper.stdout

    def wait(self, timeout_s: float | None = None) -> ExecResult:
        """The result, once it has ended; ended by us when ``timeout_s`` or its own deadline is over.

        Raises:
            SandboxLost: the supervisor is gone, or the sandbox could not run the command.
        """
        with self._lock:
            if timeout_s is not None and not self._take(timeout_s):
                self._tell(b"t")
            self._finish()
            return self._outcome()

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._outcome().exit_code if self._take(0) else None
        finally:
            self._lock.release()

    def kill(self) -> None:
        """End the whole tree and wait until it is gone. Calling twice is fine."""
        self._tell(b"k")
        with self._lock:
            self._finish()

    def end(self) -> int:
        """Kill it; how many processes that ended."""
        self.kill()
        return self._result.survivors_killed if self._result and self._result.stopped_by == "cancel" else 0

    def close(self) -> None:
        """Kill it and close its streams."""
        self.kill()
        for stream in (self._reaper.stdin, self._reaper.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def cpu_s(self) -> float:
        """CPU seconds of the whole tree so far."""
        if self._result is not None:
            return self._result.cpu_s
        with self._pipes, contextlib.suppress(OSError, ValueError):
            return float(os.pread(self._meter, 32, 0) or b"0")
        return self._result.cpu_s if self._result is not None else 0.0

    def _tell(self, message: bytes) -> None:
        with self._pipes, contextlib.suppress(OSError):  # it has ended; the result says how
            while message:
                message = message[os.write(self._control, message) :]

    def _finish(self) -> None:
        """Wait for the result; a supervisor that does not answer is killed, and bubblewrap with it."""
        left_s = max(self._deadline - time.monotonic(), 0.0)
        try:
            done = self._take(left_s + 0.5)
            if not done:
                self._reaper.send_signal(signal.SIGCONT)  # without isolation a command can stop its supervisor
                done = self._take(LATE_S)
        except BaseException:
            self._tell(b"k")  # Ctrl-C must not leave a process behind
            self._take(LATE_S)
            raise
        if not done:
            self._reaper.kill()
            self._take(LATE_S)

    def _take(self, timeout_s: float) -> bool:
        """Read what the supervisor sent; True once the outcome is known."""
        stop = time.monotonic() + timeout_s
        while self._result is None and self._lost is None:
            ready, _, _ = select.select([self._status], [], [], max(stop - time.monotonic(), 0.0))
            if not ready:
                return False
            data = os.read(self._status, 1 << 20)
            self._buffer += data
            if not data:
                self._settle()
        return True

    def _settle(self) -> None:
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer.clear()
        try:
            self._result = _result(json.loads(line), rest)
        except _Refused as error:
            self._lost = SandboxLost(f"the sandbox failed: {error}")
        except (ValueError, KeyError):
            said = os.pread(self._errors, 65_536, 0).decode(errors="replace").strip()
            why = said.splitlines()[-1] if said else "it was killed"
            self._lost = SandboxLost(f"the supervisor of a sandboxed command is gone: {why}")
            cgroup.remove(self._cgroup)
        with self._pipes:
            for fd in (self._status, self._control, self._meter, self._errors):
                os.close(fd)
            self._control = self._meter = self._status = -1
        self._reaper.wait()

    def _outcome(self) -> ExecResult:
        if self._result is None:
            raise self._lost or SandboxLost("the supervisor of a sandboxed command does not answer")
        return self._result


class _Refused(Exception):
    """The back end's own message about a command that it could not start."""


def _start_supervisor(fds: list[int], *, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-E", "-c", REAPER, *map(str, fds)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        cwd="/",
        pass_fds=[fd for fd in fds if fd >= 0],
        start_new_session=True,
    )


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)


def as_file(content: bytes) -> int:
    """A file in memory, at its start: a command can take its time to read it, and we never block on it."""
    fd = os.memfd_create("stdin")
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _result(report: Mapping[str, Any], output: bytes) -> ExecResult:
    head, tail = output[: report["head"]], output[report["head"] : report["head"] + report["tail"]]
    if report["lost"]:
        raise _Refused(" ".join(head.decode(errors="replace").split())[:500])
    if report["stuck"]:
        raise _Refused(f"{report['stuck']} of its processes cannot be killed")
    return ExecResult(
        exit_code=report["code"],
        head=decode(head, cut_after=bool(tail)),
        tail=decode(tail, cut_before=True),
        n_bytes=report["n_bytes"],
        timed_out=report["stopped_by"] in ("wall", "cpu"),
        oom=bool(report["oom"]),
        duration_s=report["took_s"],
        cpu_s=report["cpu_s"],
        survivors_killed=report["found"],
        stopped_by=report["stopped_by"],
    )


def decode(data: bytes, *, cut_before: bool = False, cut_after: bool = False) -> str:
    """UTF-8 with replacement; half a character at a cut is dropped, not shown as damage."""
    if cut_before:
        data = data.lstrip(bytes(range(0x80, 0xC0))) if len(data) > 4 else data
    if cut_after:
        for back in (1, 2, 3):
            if len(data) >= back and data[-back] >= 0xC0:
                needed = 2 if data[-back] < 0xE0 else 3 if data[-back] < 0xF0 else 4
                data = data[:-back] if needed > back else data
                break
    return data.decode(errors="replace")
