"""What follows one command in a container, in a thread of its own: moves its streams, holds its limits, ends it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from xar_agent.errors import SandboxError, SandboxLost
from xar_agent.sandbox.claims import Claim, Cleared, KeeperGone
from xar_agent.sandbox.container import START_S, Container
from xar_agent.sandbox.docker_streams import Streams
from xar_agent.sandbox.host_side import Order
from xar_agent.sandbox.launch import LOG_BYTES
from xar_agent.sandbox.protocol import ExecResult, Limits
from xar_agent.sandbox.reaper.disk import Disk
from xar_agent.sandbox.reaper.output import Output
from xar_agent.sandbox.supervised import decode, open_log

TICK_S = 0.1
DRAIN_S = 0.5
FULL_DRAIN_S = 5.0
"""For a command that ended by itself in time: on a busy machine its last output may be long on its way."""
UNSTARTED_S = 2.0
"""How long a command that must end before it runs is waited for: until then there is nothing to kill."""
SIGKILLED = 137


class Follower:
    """Follows a command from its first moment to its end, whoever waits for it."""

    def __init__(
        self,
        container: Container,
        order: Order,
        argv: Sequence[str],
        env: list[str],
        limits: Limits,
        roots: list[str],
    ) -> None:
        self.opened, self.settled = threading.Event(), threading.Event()
        """Set when it was begun, or could not be; and when ``result`` or ``lost`` says how it ended."""
        self.result: ExecResult | None = None
        self.lost: SandboxError | None = None
        self.refused = True
        """Whether it was not even begun."""
        self._container, self._order, self._argv, self._env = container, order, argv, env
        self._claim = Claim(time.monotonic() + START_S + order.timeout_s)
        self._command = ""
        self._stop = ""
        self._begun = 0.0
        self._cpu_before = self._cpu_s = 0.0
        self._oom_before = self._oom = 0
        self._disk_bytes = None if limits.disk_mib is None else limits.disk_mib << 20
        self._roots = roots
        self._disk: Disk | None = None
        self._log = -1 if order.log_path is None else open_log(order.log_path)
        self._output = Output(-1, self._log, {"log_bytes": LOG_BYTES, "keep_bytes": order.keep_bytes})
        self._waking = threading.Lock()
        self._wake, self._waker = os.pipe()
        self.streams = Streams(order.stdin)

    def run(self) -> None:
        """Begin it and follow it to its end; never raises."""
        try:
            self._open()
            self.result = self._finish(self._watch())
        except BaseException as error:  # nobody else sees what happens in this thread
            lost = SandboxLost(f"a command in a container could not be followed: {error!r}")
            self.lost = error if isinstance(error, SandboxError) else lost
            self.streams.hang_up()
            with contextlib.suppress(SandboxError):
                self._container.give_up(self._claim)
        finally:
            self.close()

    def close(self) -> None:
        """Let everybody know, then deliver what has not been read yet."""
        with contextlib.ExitStack() as stack:  # whatever fails on the way: whoever waits hears of the end
            stack.callback(self.streams.close_theirs)
            stack.callback(self.streams.deliver)
            stack.callback(self.opened.set)
            stack.callback(self._settle)
            stack.callback(self.streams.hang_up)

    def ask_stop(self, why: str) -> None:
        """Have it ended."""
        with self._waking:
            if not self.settled.is_set():
                self._stop = self._stop or why
                os.write(self._waker, b"x")

    def cpu_s(self) -> float:
        """CPU seconds of the container since the command began."""
        if not self.settled.is_set() and self._begun:
            with contextlib.suppress(KeeperGone, SandboxLost):
                self._measure()
        return self.result.cpu_s if self.result is not None else self._cpu_s

    def _settle(self) -> None:
        if self._log >= 0:
            os.close(self._log)
        with self._waking:
            self.settled.set()
            os.close(self._wake)
            os.close(self._waker)

    def _open(self) -> None:
        stdin = self._order.stdin is None or bool(self._order.stdin)
        begun = self._container.begin(self._claim, self._argv, self._env, stdin=stdin)
        self._command, self._cpu_before, self._oom_before = begun.id, begun.use["cpu_s"], begun.use["oom"]
        self.streams.connect(begun.stream)
        self.refused = False
        self.opened.set()

    def _watch(self) -> int | None:
        """Until the command has ended (its exit code) or must end (None)."""
        begun = time.monotonic()
        next_look, next_tick = begun, begun
        while not self._stop:
            self._exchange(TICK_S)
            now = time.monotonic()
            if self.streams.started and self._disk is None:
                self._disk = self._begin_clock()
            if now >= next_look or self.streams.at_end:
                code = self._container.exit_code(self._command)
                if code is not None:
                    return code
                next_look = now + min(max(0.1, 0.1 * (now - begun)), 1.0)
                if self.streams.at_end:
                    time.sleep(0.01)
            if self._disk is None and now > begun + START_S:
                raise SandboxLost("the Docker engine did not start a command in time")
            if self._disk is not None and now >= next_tick:
                next_tick = now + TICK_S
                self._look(now, self._disk)
        return None

    def _begin_clock(self) -> Disk:
        begun = time.monotonic()
        self._claim.shell, self._claim.ends = self.streams.shell, begun + self._order.timeout_s
        with contextlib.suppress(KeeperGone):
            self._cpu_before = self._container.ask("use", era=self._claim.era)["cpu_s"]
        self._begun = begun
        return Disk(self._roots)

    def _look(self, now: float, disk: Disk) -> None:
        """Compare use with the limits."""
        if self._is_late():
            self._stop = self._stop or "wall"
            return
        try:
            self._measure()
        except KeeperGone:
            self._explain()
        disk.step(now)
        over_cpu = self._order.cpu_s is not None and self._cpu_s >= self._order.cpu_s
        over_disk = self._disk_bytes is not None and disk.is_over(self._disk_bytes, 0)
        self._stop = self._stop or ("memory" if self._oom else "cpu" if over_cpu else "disk" if over_disk else "")

    def _is_late(self) -> bool:
        return bool(self._begun) and time.monotonic() >= self._begun + self._order.timeout_s

    def _measure(self) -> None:
        self._count(self._container.ask("use", era=self._claim.era))

    def _count(self, use: Mapping[str, Any]) -> None:
        self._cpu_s = max(self._cpu_s, use["cpu_s"] - self._cpu_before)
        self._oom = max(self._oom, use["oom"] - self._oom_before)

    def _explain(self) -> None:
        """Why the container has ended.

        Raises:
            SandboxLost: it was not by our doing.
        """
        if self._stop:
            return
        if self._container.is_oom_killed(self._claim.era):
            self._oom = max(self._oom, 1)
            self._stop = "memory"
        elif self._is_late():  # then it was the keeper that ended it
            self._stop = "wall"
        else:
            raise SandboxLost("the container of a command was ended by someone else")

    def _exchange(self, timeout_s: float) -> None:
        """Move what can be moved, for at most so long."""
        if self.streams.exchange(self._wake, timeout_s):
            os.read(self._wake, 64)
        for data in self.streams.take_output():
            self._output.take(data)

    def _finish(self, code: int | None) -> ExecResult:
        """End everything, then say what happened."""
        if code is None and not self.streams.started:
            self._await_start()
        found, dirty = 0, False
        try:
            cleared = self._clear()
            found, dirty = cleared.found, cleared.dirty
            self._count(cleared.use)
            if not cleared.empty:
                self._end_container()
        except KeeperGone:
            self._end_container()
            self._explain()
        except SandboxLost:
            self._end_container()
        self._drain()
        if dirty:
            self._container.end_if_idle()
        if not self.streams.started and not self._stop:
            said = bytes(self._output.head).decode(errors="replace").strip() or self.streams.unsorted() or code
            raise SandboxLost(f"the Docker engine could not start a command: {said}")
        return self._report(SIGKILLED if code is None else code, found)

    def _clear(self) -> Cleared:
        """Kill what is left, and go on taking output: an engine whose output nobody takes starts no helper to kill."""
        if not self._stop:
            return self._container.clear(self._claim, at_once=False)
        outcome: Future[Cleared] = Future()

        def clear() -> None:
            try:
                outcome.set_result(self._container.clear(self._claim, at_once=True))
            except BaseException as error:  # it belongs to the thread that waits
                outcome.set_exception(error)

        threading.Thread(target=clear, name="docker-clear", daemon=True).start()
        while not outcome.done():
            self._exchange(0.01)
        return outcome.result()

    def _await_start(self) -> None:
        """There is nothing to kill yet, but there will be: an engine that has been told cannot be told otherwise."""
        stop = time.monotonic() + UNSTARTED_S
        while not self.streams.started and not self.streams.at_end and time.monotonic() < stop:
            self._exchange(0.05)
        self._claim.shell = self.streams.shell
        if not self.streams.started and not self.streams.at_end:
            self._end_container()

    def _end_container(self) -> None:
        """The last line, which ends other commands in it too."""
        self._exchange(0)
        self.streams.hang_up()  # an engine whose output nobody takes does not even answer when it is told to kill
        self._container.end(self._claim.era)

    def _drain(self) -> None:
        """Take what is still on its way. Its end surely comes, unless another command holds the same pipe."""
        now = time.monotonic()
        stop = now + DRAIN_S
        if not self._stop:
            stop = max(stop, min(now + FULL_DRAIN_S, (self._begun or now) + self._order.timeout_s))
        self.streams.lift_bound()
        while not self.streams.at_end and time.monotonic() < stop:
            self._exchange(0.05)

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
