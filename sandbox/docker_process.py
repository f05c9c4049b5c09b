"""One command in a container, seen from the host: a thread follows it, holds its limits, and ends it."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from pathlib import Path
from typing import IO

from xar_agent.errors import SandboxLost
from xar_agent.sandbox.container import MARK, Container, KeeperGone
from xar_agent.sandbox.docker_streams import Streams
from xar_agent.sandbox.host_side import Order
from xar_agent.sandbox.launch import LOG_BYTES
from xar_agent.sandbox.protocol import ExecResult, Limits
from xar_agent.sandbox.reaper.disk import Disk
from xar_agent.sandbox.reaper.output import Output
from xar_agent.sandbox.supervised import decode, open_log

START = (
    "echo s >&2; {merge}exec 4>&2 2>/dev/null; echo 500 > /proc/self/oom_score_adj; "
    'cd -- "$1" || {{ echo "cannot enter $1: no such folder" >&4; exit 126; }}; '
    'shift; unset OLDPWD; (exec "$@") 2>&4 4>&-; exit $?'
)
"""Run by sh inside: says that it runs, then runs the command as a child, because no other process knows how it ends."""
TICK_S = 0.1
START_S = 60.0
DRAIN_S = 1.0
LATE_S = 15.0
SIGKILLED = 137


class DockerProcess:
    """A command under way in a container. It ends at its limits whoever waits for it."""

    def __init__(
        self, container: Container, order: Order, cwd: str, env: list[str], limits: Limits, roots: list[str]
    ) -> None:
        """Start it.

        Args:
            container: where.
            order: what.
            cwd: its working folder inside.
            env: its variables as the engine takes them.
            limits: what it may use.
            roots: host folders whose size counts as its disk use.

        Raises:
            SandboxLost: the engine is gone.
        """
        self.stderr_path = order.log_path or Path(os.devnull)
        self._container, self._order = container, order
        self._mark = MARK + secrets.token_hex(8)
        self._result: ExecResult | None = None
        self._lost: SandboxLost | None = None
        self._settled = threading.Event()
        self._stop = ""
        self._begun = 0.0
        self._cpu_before = self._cpu_s = 0.0
        self._oom_before = self._oom = 0
        self._disk_bytes = None if limits.disk_mib is None else limits.disk_mib << 20
        self._roots = roots
        merge = order.stdin is not None
        script = START.format(merge="exec 2>&1; " if merge else "")
        argv = ["/bin/sh", "-c", script, self._mark, cwd, *order.words]
        self._command, self._stream = container.begin(self._mark, argv, env, stdin=not merge or bool(order.stdin))
        self._log = -1 if order.log_path is None else open_log(order.log_path)
        self._output = Output(-1, self._log, {"log_bytes": LOG_BYTES, "keep_bytes": order.keep_bytes})
        self._wake, self._waker = os.pipe()
        self._waking = threading.Lock()
        self._streams = Streams(self._stream, order.stdin)
        self._thread = threading.Thread(target=self._follow, name="docker-command", daemon=True)
        self._thread.start()

    @property
    def stdin(self) -> IO[bytes]:
        """Open pipe of a spawned command."""
        assert self._streams.stdin is not None
        return self._streams.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Open pipe of a spawned command."""
        assert self._streams.stdout is not None
        return self._streams.stdout

    def wait(self, timeout_s: float | None = None) -> ExecResult:
        """The result, once it has ended; ended by us when ``timeout_s`` or its own deadline is over.

        Raises:
            SandboxLost: the engine or the container is gone.
        """
        try:
            if not self._settled.wait(timeout_s):
                self._ask_stop("wall")
                self._settled.wait()
        except BaseException:
            self._ask_stop("cancel")  # Ctrl-C must not leave a process behind
            self._settled.wait(LATE_S)
            raise
        if self._result is None:
            raise self._lost or SandboxLost("a command in a container was not followed to its end")
        return self._result

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.wait().exit_code if self._settled.is_set() else None

    def kill(self) -> None:
        """End the whole tree and wait until it is gone. Calling twice is fine."""
        self._ask_stop("cancel")
        self._settled.wait()

    def end(self) -> int:
        """Kill it; how many processes that ended."""
        self.kill()
        return self._result.survivors_killed if self._result and self._result.stopped_by == "cancel" else 0

    def close(self) -> None:
        """Kill it and close its streams."""
        self.kill()
        self._streams.close_ours()

    def cpu_s(self) -> float:
        """CPU seconds of the container since the command began."""
        if not self._settled.is_set() and self._begun:
            with contextlib.suppress(KeeperGone, SandboxLost):
                self._measure()
        return self._result.cpu_s if self._result is not None else self._cpu_s

    def _ask_stop(self, why: str) -> None:
        self._stop = self._stop or why
        with self._waking:
            if not self._settled.is_set():
                os.write(self._waker, b"x")

    def _measure(self) -> None:
        use = self._container.ask("c")
        self._cpu_s = max(self._cpu_s, use["cpu_s"] - self._cpu_before)
        self._oom = max(self._oom, use["oom"] - self._oom_before)

    def _follow(self) -> None:
        try:
            code = self._watch()
            self._result = self._finish(code)
        except SandboxLost as error:
            self._lost = error
        except BaseException as error:  # nobody else sees what happens in this thread
            self._lost = SandboxLost(f"a command in a container could not be followed: {error!r}")
        finally:
            with contextlib.ExitStack() as stack:  # whatever fails on the way: whoever waits hears of the end
                stack.callback(self._settle)
                stack.callback(self._streams.close_theirs)
                stack.callback(self._stream.close)

    def _settle(self) -> None:
        if self._log >= 0:
            os.close(self._log)
        with self._waking:
            self._settled.set()
            os.close(self._wake)
            os.close(self._waker)

    def _watch(self) -> int | None:
        """Until the command has ended (its exit code) or must end (None)."""
        begun = time.monotonic()
        next_look, next_tick, disk = begun, begun, None
        while not self._stop:
            self._exchange(TICK_S)
            now = time.monotonic()
            if self._streams.started and disk is None:
                disk = self._begin_clock()
            if now >= next_look or self._stream.at_end:
                code = self._container.exit_code(self._command)
                if code is not None:
                    return code
                next_look = now + min(max(0.1, 0.1 * (now - begun)), 1.0)
                if self._stream.at_end:
                    time.sleep(0.01)
            if disk is None and now > begun + START_S:
                raise SandboxLost("the Docker engine did not start a command in time")
            if disk is not None and now >= next_tick:
                next_tick = now + TICK_S
                self._look(now, disk)
        return None

    def _begin_clock(self) -> Disk:
        self._begun = time.monotonic()
        with contextlib.suppress(KeeperGone):
            use = self._container.ask("c")
            self._cpu_before, self._oom_before = use["cpu_s"], use["oom"]
        self._container.set_deadline(self._mark, self._order.timeout_s)
        return Disk(self._roots)

    def _look(self, now: float, disk: Disk) -> None:
        """Compare use with the limits."""
        if self._is_late():
            self._stop = self._stop or "wall"
        self._measure_or_explain()
        disk.step(now)
        over_cpu = self._order.cpu_s is not None and self._cpu_s >= self._order.cpu_s
        over_disk = self._disk_bytes is not None and disk.is_over(self._disk_bytes, 0)
        self._stop = self._stop or ("memory" if self._oom else "cpu" if over_cpu else "disk" if over_disk else "")

    def _is_late(self) -> bool:
        return bool(self._begun) and time.monotonic() >= self._begun + self._order.timeout_s

    def _measure_or_explain(self) -> None:
        """What it used by now; of a container that has ended: why.

        Raises:
            SandboxLost: it was not by our doing.
        """
        try:
            self._measure()
        except KeeperGone as error:
            if self._container.is_oom_killed():
                self._oom = max(self._oom, 1)
            elif self._is_late():  # then it was the keeper that ended it
                self._stop = self._stop or "wall"
            elif not self._stop:
                raise SandboxLost("the container of a command was ended by someone else") from error

    def _exchange(self, timeout_s: float) -> None:
        """Move what can be moved, for at most so long."""
        if self._streams.exchange(self._wake, timeout_s):
            os.read(self._wake, 64)
        for data in self._streams.take_output():
            self._output.take(data)

    def _finish(self, code: int | None) -> ExecResult:
        """End everything, then say what happened."""
        if self._stop:  # an engine whose output nobody takes does not even answer when it is told to kill
            self._exchange(0)
            self._stream.close()
        try:
            self._measure_or_explain()
        finally:
            found = self._container.clear(self._mark, at_once=bool(self._stop))
        stop = time.monotonic() + DRAIN_S
        while not self._stream.at_end and time.monotonic() < stop:
            self._exchange(0.05)
        if not self._streams.started:
            if self._stop:
                return self._report(SIGKILLED, found)
            raise SandboxLost(f"the Docker engine could not start a command: {self._stream.unframed() or code}")
        return self._report(SIGKILLED if code is None else code, found)

    def _report(self, code: int, found: int) -> ExecResult:
        head, tail = self._output.parts()
        stopped = self._stop or ("memory" if self._oom else "")
        return ExecResult(
            exit_code=code,
            head=decode(head, cut_after=bool(tail)),
            tail=decode(tail, cut_before=True),
            n_bytes=self._output.n_bytes,
            timed_out=stopped in ("wall", "cpu"),
            oom=bool(self._oom),
            duration_s=time.monotonic() - self._begun if self._begun else 0.0,
            cpu_s=self._cpu_s,
            survivors_killed=found,
            stopped_by=stopped,
        )
