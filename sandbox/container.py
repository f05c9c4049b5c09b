"""One container and the keeper in it: made, asked, emptied of processes, begun again, removed."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.errors import SandboxLost, SandboxStartError
from xar_agent.sandbox.engine import explain, lost_when_gone
from xar_agent.sandbox.hijack import STDOUT, Hijacked

if TYPE_CHECKING:
    from docker import APIClient

KEEPER = Path(__file__).with_name("keeper.py")
HELLO_S = 20.0
"""A container on a busy machine was seen to take seconds to start."""
REPLY_S = 10.0
KILL_S = 1.0
KILL_EVERYTHING = "kill -9 -1"
GRACE_S = 2.0
"""How long after a deadline the keeper waits for us to act on it, before it ends the container."""
MARK = "xar:"


class KeeperGone(Exception):
    """The keeper has ended, and so has the container."""


class Container:
    """A container whose first program is the keeper. Its commands run as ``user`` and are started by the engine."""

    def __init__(self, client: APIClient, config: Mapping[str, Any], host: Mapping[str, Any], user: str) -> None:
        """Create and start it.

        Args:
            client: of the engine; it is closed with the container.
            config: what ``create_container`` takes besides the keeper.
            host: what ``create_host_config`` takes.
            user: "uid:gid" of the commands.

        Raises:
            SandboxStartError: the engine refuses; the message says why.
        """
        self.client, self.user = client, user
        self._uid = int(user.partition(":")[0])
        self._asking, self._clearing = threading.Lock(), threading.RLock()
        self._deadlines: dict[str, float] = {}
        self._stream: Hijacked | None = None
        self._lines = bytearray()
        keeper = ["python3", "-I", "-S", "-c", KEEPER.read_text()]
        with refused_start():
            made = client.create_container(
                **config,
                entrypoint=keeper,
                user="0:0",
                stdin_open=True,
                host_config=client.create_host_config(**host),
            )
        self.id: str = made["Id"]
        try:
            self._run()
        except BaseException:
            self.remove()
            raise

    def _run(self) -> None:
        """Start it under a fresh keeper, whose input we hold from before its first moment."""
        with refused_start():
            handed = self.client.attach_socket(self.id, params={"stdin": 1, "stdout": 1, "stream": 1})
            self._stream, self._lines = Hijacked(handed), bytearray()
            self._stream.send(b"hello\n")
            self.client.start(self.id)
            try:
                self.hello = self._reply(HELLO_S)
            except (KeeperGone, SandboxLost) as error:
                hint = "its image needs python3 on its PATH; see xar-agent doctor"
                raise SandboxStartError("the first program of the container ended at once", hint) from error

    def ask(self, request: str) -> dict[str, Any]:
        """The keeper's answer.

        Raises:
            KeeperGone: the container has ended.
            SandboxLost: it does not answer.
        """
        with self._asking:
            if self._stream is None:
                raise KeeperGone
            try:
                self._stream.send(request.encode() + b"\n")
            except OSError as error:
                raise KeeperGone from error
            return self._reply(REPLY_S)

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        stream = self._stream
        assert stream is not None
        stop = time.monotonic() + timeout_s
        while b"\n" not in self._lines:
            if not readable(stream, stop - time.monotonic()):
                raise SandboxLost("the container does not answer")
            more = stream.receive()
            self._lines += b"".join(data for number, data in stream.frames() if number == STDOUT)
            if not more and b"\n" not in self._lines:
                stream.close()
                self._stream = None
                raise KeeperGone
        line, _, rest = bytes(self._lines).partition(b"\n")
        self._lines[:] = rest
        reply: dict[str, Any] = json.loads(line)
        return reply

    def begin(self, mark: str, argv: Sequence[str], env: Sequence[str], *, stdin: bool) -> tuple[str, Hijacked]:
        """Start a command: the engine's id of it, and its streams.

        Raises:
            SandboxLost: the engine refuses or is gone.
        """
        with self._clearing:
            if self._stream is None:
                self._run()
            with lost_when_gone("start a command"):
                made = self.client.exec_create(self.id, list(argv), stdin=stdin, user=self.user, environment=list(env))
                handed = self.client.exec_start(made["Id"], socket=True)
            self._deadlines[mark] = float("inf")
            return made["Id"], Hijacked(handed)

    def set_deadline(self, mark: str, seconds: float) -> None:
        """Should we be stopped, the keeper ends everything so long after the last command's time is over."""
        self._deadlines[mark] = time.monotonic() + seconds
        self._tell_deadline()

    def _tell_deadline(self) -> None:
        last = max(self._deadlines.values(), default=None)
        bounded = last is not None and last != float("inf")
        with contextlib.suppress(KeeperGone):
            self.ask(f"d {last - time.monotonic() + GRACE_S:.3f}" if bounded and last is not None else "d")

    def exit_code(self, command: str) -> int | None:
        """A command's exit code, None while it runs."""
        with lost_when_gone("tell how a command ended"):
            known = self.client.exec_inspect(command)
        return None if known["Running"] or known["ExitCode"] is None else int(known["ExitCode"])

    def is_oom_killed(self) -> bool:
        """Whether the container has ended because its first program was killed for want of memory."""
        with lost_when_gone("tell how a container ended"):
            return bool(self.client.inspect_container(self.id)["State"]["OOMKilled"])

    def clear(self, mark: str, *, at_once: bool) -> int:
        """Kill what is left of a command, and all that belongs to no command; how many processes there were.

        A container that cannot be emptied so, or that keeps something in memory, is ended and begun again with the next
        command: its workspace and /tmp stay, other commands in it end too. ``at_once`` does that first where there are
        no others: a command out of its limits may leave the machine too busy to start another one that kills it.

        Raises:
            SandboxLost: the engine is gone, and nobody can say what still runs.
        """
        with self._clearing:
            self._deadlines.pop(mark, None)
            found = 0
            try:
                left, dirty = self._left(mark)
                found = len(left)
                alone = not self._deadlines
                if alone and (dirty or left and at_once) or left and not self._kill(mark, left):
                    self.end()
                else:
                    self._tell_deadline()
            except (KeeperGone, SandboxLost):
                self.end()
            return found

    def _left(self, mark: str) -> tuple[set[int], bool]:
        """Processes that no other command can claim, the first shell of this one left out; whether memory is kept."""
        reply = self.ask("p")
        processes = [process for process in reply["processes"] if process[2] == self._uid]
        roots = {process[0]: process[3] for process in processes if process[1] == 0}
        others = {pid for pid, known in roots.items() if known in self._deadlines}
        claimed = below(others, processes)
        own = {pid for pid, known in roots.items() if known == mark}
        return {process[0] for process in processes} - claimed - own, bool(reply["left"])

    def _kill(self, mark: str, left: set[int]) -> bool:
        """Kill them as the user that they run as; False if any is left."""
        stop = time.monotonic() + KILL_S
        while left and time.monotonic() < stop:
            words = KILL_EVERYTHING if not self._deadlines else "kill -9 " + " ".join(map(str, left))
            with contextlib.suppress(SandboxLost):
                self._execute(["/bin/sh", "-c", f"{words} 2>/dev/null"], stop)
            left, _ = self._left(mark)
        return not left

    def _execute(self, argv: list[str], stop: float) -> None:
        with lost_when_gone("kill"):
            made = self.client.exec_create(self.id, argv, user=self.user)
            stream = Hijacked(self.client.exec_start(made["Id"], socket=True))
        try:
            while readable(stream, stop - time.monotonic()) and stream.receive():
                pass
        finally:
            stream.close()

    def end(self) -> None:
        """Kill everything in it at once, the keeper too."""
        from docker.errors import APIError

        with self._clearing, lost_when_gone("end a container"):
            with contextlib.suppress(APIError):  # it has ended by itself
                self.client.kill(self.id)
            self.client.wait(self.id, timeout=REPLY_S)
            with self._asking:
                if self._stream is not None:
                    self._stream.close()
                self._stream = None

    def remove(self) -> None:
        """Take it away, with whatever runs in it. An engine that is gone keeps it for the next sweep."""
        with contextlib.suppress(SandboxLost), lost_when_gone("remove a container"):
            self.client.remove_container(self.id, force=True, v=True)
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def below(roots: Iterable[int], processes: Iterable[Sequence[Any]]) -> set[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process[1], []).append(process[0])
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        found.add(pid)
        todo += children.get(pid, [])
    return found


def readable(stream: Hijacked, timeout_s: float) -> bool:
    """Whether something arrives in time."""
    poller = select.poll()
    poller.register(stream, select.POLLIN)
    return bool(poller.poll(max(timeout_s, 0.0) * 1000))


@contextlib.contextmanager
def refused_start() -> Iterator[None]:
    """What the engine says about a container that it does not start, in words that help."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        said = explain(error)
        if "could not select device driver" in said:
            hint = "install nvidia-container-toolkit and restart the engine, or run with gpus = 0"
            raise SandboxStartError("this Docker engine has no GPU support", hint) from error
        raise SandboxStartError(f"the Docker engine did not start a container: {said}", "xar-agent doctor") from error
