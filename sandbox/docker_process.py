"""One command in a container, seen from the host: started, waited for, ended. A thread follows it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import IO

from xar_agent.errors import SandboxLost
from xar_agent.sandbox.container import Container
from xar_agent.sandbox.docker_follower import Follower
from xar_agent.sandbox.host_side import Order
from xar_agent.sandbox.protocol import ExecResult, Limits

START = (
    'echo "s $$" >&2; {merge}exec 4>&2 2>/dev/null; echo 500 > /proc/self/oom_score_adj; '
    'cd -- "$1" || {{ echo "cannot enter $1: no such folder" >&4; exit 126; }}; '
    'shift; unset OLDPWD; (exec "$@") 2>&4 4>&-; exit $?'
)
"""Run by sh inside: says that it runs and its pid, then runs the command as a child: nobody else knows how it ends."""
LATE_S = 15.0
CLOSE_S = 1.0


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
            SandboxStartError: the container had ended, and cannot be begun again.
        """
        self.stderr_path = order.log_path or Path(os.devnull)
        merge = "" if order.stdin is None else "exec 2>&1; "
        argv = ("/bin/sh", "-c", START.format(merge=merge), "sh", cwd, *order.words)
        self._follower = Follower(container, order, argv, env, limits, roots)
        self._streams, self._settled = self._follower.streams, self._follower.settled
        # All calls to the engine are in that thread: Ctrl-C here cannot cut one in two.
        self._thread = threading.Thread(target=self._follower.run, name="docker-command", daemon=True)
        try:
            self._thread.start()
            self._follower.opened.wait()
        except BaseException:
            if self._thread.ident is None:
                self._follower.close()
            else:
                self._interrupt()
            self._streams.close_ours()
            raise
        if self._follower.refused:
            self.close()
            raise self._follower.lost or SandboxLost("a command in a container was not begun")

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
                self._follower.ask_stop("wall")
                self._settled.wait()
        except BaseException:
            self._interrupt()  # Ctrl-C must not leave a process behind
            raise
        if self._follower.result is None:
            raise self._follower.lost or SandboxLost("a command in a container was not followed to its end")
        return self._follower.result

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.wait().exit_code if self._settled.is_set() else None

    def kill(self) -> None:
        """End the whole tree and wait until it is gone. Calling twice is fine."""
        self._follower.ask_stop("cancel")
        self._settled.wait()

    def end(self) -> int:
        """Kill it; how many processes that ended."""
        self.kill()
        result = self._follower.result
        return result.survivors_killed if result and result.stopped_by == "cancel" else 0

    def close(self) -> None:
        """Kill it and close its streams."""
        self.kill()
        self._streams.close_ours()
        self._thread.join(CLOSE_S)

    def cpu_s(self) -> float:
        """CPU seconds of the container since the command began."""
        return self._follower.cpu_s()

    def _interrupt(self) -> None:
        self._follower.ask_stop("cancel")
        self._settled.wait(LATE_S)
