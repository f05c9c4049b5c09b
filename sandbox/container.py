"""One container and the keeper in it: made, asked, emptied of processes, begun again, removed."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.errors import CapabilityMissing, SandboxLost, SandboxStartError
from xar_agent.sandbox.claims import Begun, Claim, Cleared, KeeperGone
from xar_agent.sandbox.engine import lost_when_gone, refused_start
from xar_agent.sandbox.hijack import STDOUT, Hijacked, readable
from xar_agent.sandbox.patience import within

if TYPE_CHECKING:
    from docker import APIClient

KEEPER = Path(__file__).with_name("keeper.py")
HELLO_S = 20.0
"""A container on a busy machine was seen to take seconds to start."""
REPLY_S = 10.0
START_S = 60.0
IN_FLIGHT_S = 2.0
"""How long an engine may still take for a container that it was asked for when we were interrupted."""
CLEAR_S = 0.7
"""A container that is not empty by then is ended."""
GRACE_S = 2.0
"""How long after a deadline the keeper waits for us to act on it, before it ends the container."""


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
        self.id = f"xar-agent-{secrets.token_hex(8)}"
        """A name of our choice: known also when we are interrupted before the engine says its own."""
        self._asking, self._changing = threading.Lock(), threading.RLock()
        self._claims: set[Claim] = set()
        self._stream: Hijacked | None = None
        self._lines = bytearray()
        self._asked = self.era = 0
        keeper = ["python3", "-I", "-S", "-c", KEEPER.read_text()]
        try:
            with refused_start():
                client.create_container(
                    **config,
                    name=self.id,
                    entrypoint=keeper,
                    user="0:0",
                    stdin_open=True,
                    host_config=client.create_host_config(**host),
                )
            self.hello = self._run()
        except BaseException as error:
            self.remove(patience_s=0.0 if isinstance(error, SandboxStartError) else IN_FLIGHT_S)
            raise

    def _run(self) -> dict[str, Any]:
        """Start it under a fresh keeper, whose input we hold from before its first moment; what that says."""
        try:
            with refused_start():
                handed = self.client.attach_socket(self.id, params={"stdin": 1, "stdout": 1, "stream": 1})
                self._stream, self._lines = Hijacked(handed), bytearray()
                self._asked = 0
                self._stream.send(b'{"n": 0, "do": "hello", "after_s": null}\n')
                self.client.start(self.id)
            self.era += 1
            return self._reply(0, HELLO_S)
        except (KeeperGone, SandboxLost) as error:
            self._let_go()
            hint = "its image needs python3 on its PATH; see xar-agent doctor"
            raise SandboxStartError("the first program of the container ended at once", hint) from error
        except BaseException:
            self._let_go()
            raise

    def ask(self, do: str, *, era: int | None = None, timeout_s: float = REPLY_S, **more: object) -> dict[str, Any]:
        """The keeper's answer; it is told the deadline of all commands too.

        Raises:
            KeeperGone: the container has ended, or is another one than in ``era``.
            SandboxLost: it does not answer.
        """
        stop = time.monotonic() + timeout_s
        if not self._asking.acquire(timeout=timeout_s):
            raise SandboxLost("the container does not answer")
        try:
            if self._stream is None or era not in (None, self.era):
                raise KeeperGone
            self._asked += 1
            last = max((claim.ends for claim in list(self._claims)), default=None)
            after_s = None if last is None else last - time.monotonic() + GRACE_S
            request = {"n": self._asked, "do": do, "after_s": after_s, **more}
            line = json.dumps(request).encode() + b"\n"
            try:
                if self._stream.send(line) < len(line):
                    raise SandboxLost("the container takes no more questions")
            except OSError as error:
                raise KeeperGone from error
            return self._reply(self._asked, stop - time.monotonic())
        finally:
            self._asking.release()

    def _reply(self, number: int, timeout_s: float) -> dict[str, Any]:
        """The answer with this number; those that came too late for their questions are left out."""
        stream = self._stream
        assert stream is not None
        stop = time.monotonic() + timeout_s
        while True:
            while b"\n" not in self._lines:
                if not readable(stream, stop - time.monotonic()):
                    raise SandboxLost("the container does not answer")
                more = stream.receive()
                self._lines += b"".join(data for kind, data in stream.frames() if kind == STDOUT)
                if not more and b"\n" not in self._lines:
                    stream.close()
                    self._stream = None
                    raise KeeperGone
            line, _, rest = bytes(self._lines).partition(b"\n")
            self._lines[:] = rest
            reply: dict[str, Any] = json.loads(line)
            if reply["n"] == number:
                return reply

    def begin(self, claim: Claim, argv: Sequence[str], env: Sequence[str], *, stdin: bool) -> Begun:
        """Start a command: the engine answers before it runs. Whatever comes of it, the claim must be cleared.

        Raises:
            SandboxLost: the engine refuses or is gone.
            SandboxStartError: the container had ended, and cannot be begun again.
        """
        with self._changing:
            self._claims.add(claim)
            use = self._awake()
            claim.era = self.era
        # Without the lock: an engine that is slow here must not keep other commands from being ended.
        with lost_when_gone("start a command"):
            made = self.client.exec_create(self.id, list(argv), stdin=stdin, user=self.user, environment=list(env))
            handed = self.client.exec_start(made["Id"], socket=True)
        return Begun(made["Id"], Hijacked(handed), use)

    def _awake(self) -> dict[str, Any]:
        """What was used by now, in a container that runs: one that has ended is begun again."""
        try:
            return self.ask("use")
        except KeeperGone:
            self.end(self.era)
            return self._run()

    def exit_code(self, command: str) -> int | None:
        """A command's exit code, None while it runs."""
        with lost_when_gone("tell how a command ended"):
            known = self.client.exec_inspect(command)
        return None if known["Running"] or known["ExitCode"] is None else int(known["ExitCode"])

    def is_oom_killed(self, era: int) -> bool:
        """Whether the container has ended because its first program was killed for want of memory."""
        if era != self.era:
            return False
        with lost_when_gone("tell how a container ended"):
            self.client.wait(self.id, timeout=REPLY_S)
            return bool(self.client.inspect_container(self.id)["State"]["OOMKilled"])

    def clear(self, claim: Claim, *, at_once: bool) -> Cleared:
        """Kill what is left of a command, and all that belongs to no command.

        ``at_once`` leaves that to ``end`` where no other command is there: a command beyond its limits may keep the
        machine too busy, or the container too full, to start one more process that kills it.

        Raises:
            KeeperGone: the container has ended.
            SandboxLost: it does not answer; it must be ended.
        """
        with self._changing:
            self._claims.discard(claim)
            if claim.era != self.era:
                raise KeeperGone
            others = [other for other in self._claims if other.era == self.era]
            stop = time.monotonic() + CLEAR_S
            use = self._look(claim, others, stop)
            left = set(use["pids"])
            found = len(left - {claim.shell})
            if left and (others or not at_once):
                left = self._kill(claim, others, left, stop)
            return Cleared(use, found, empty=not left, dirty=use["left"])

    def _look(self, claim: Claim, others: Sequence[Claim], stop: float) -> dict[str, Any]:
        shells = [other.shell for other in others if other.shell]
        user, starting = int(self.user.partition(":")[0]), len(shells) < len(others)
        left_s = max(stop - time.monotonic(), 0.1)
        return self.ask("look", timeout_s=left_s, user=user, own=claim.shell, others=shells, starting=starting)

    def _kill(self, claim: Claim, others: Sequence[Claim], left: set[int], stop: float) -> set[int]:
        """Kill these as the user that they run as, who is not the keeper's; those that are left when time is up."""
        while left and time.monotonic() < stop:
            # Stopped first: what is stopped cannot start others while we look.
            whom = " ".join(map(str, left)) if others else "-1"
            kill = ["/bin/sh", "-c", f"kill -STOP {whom}; kill -KILL {whom}"]
            with contextlib.suppress(SandboxLost, CapabilityMissing):
                within(stop - time.monotonic(), partial(self._execute, kill, stop), "the Docker engine")
            left = set(self._look(claim, others, stop)["pids"])
        return left

    def _execute(self, argv: Sequence[str], stop: float) -> None:
        """Run a helper to its end, which is the end of its output; an engine too slow for it is left behind."""
        with lost_when_gone("kill"):
            made = self.client.exec_create(self.id, list(argv), user=self.user)
            if time.monotonic() > stop:
                return  # by now it would meet others
            stream = Hijacked(self.client.exec_start(made["Id"], socket=True))
        try:
            while readable(stream, stop - time.monotonic()) and stream.receive():
                pass
        finally:
            stream.close()

    def end_if_idle(self) -> None:
        """End a container that keeps something in memory for nobody; raises as ``end`` does."""
        with self._changing:
            if not any(claim.era == self.era for claim in self._claims):
                self.end(self.era)

    def give_up(self, claim: Claim) -> None:
        """End a command that nobody follows any more, and whatever else runs in its container.

        Raises:
            SandboxLost: the engine is gone, and nobody can say what still runs.
        """
        with self._changing:
            if claim in self._claims:
                self._claims.discard(claim)
                self.end(claim.era)

    def end(self, era: int) -> None:
        """Kill everything in it at once, the keeper too; nothing where it has been begun again since ``era``.

        Raises:
            SandboxLost: the engine is gone, and nobody can say what still runs.
        """
        from docker.errors import APIError

        with self._changing:
            if era != self.era:
                return
            try:
                with lost_when_gone("end a container"):
                    with contextlib.suppress(APIError):  # it has ended by itself
                        self.client.kill(self.id)
                    self.client.wait(self.id, timeout=REPLY_S)
            finally:
                self._let_go()

    def remove(self, *, patience_s: float = 0.0) -> None:
        """Take it away, with whatever runs in it. An engine that is gone keeps it for the next sweep.

        ``patience_s`` is for one whose making was interrupted: the engine may be about to make it still.
        """
        from docker.errors import NotFound

        stop = time.monotonic() + patience_s
        with contextlib.suppress(SandboxLost), lost_when_gone("remove a container"):
            while True:
                try:
                    self.client.remove_container(self.id, force=True, v=True)
                    break
                except NotFound:
                    if time.monotonic() >= stop:
                        break
                time.sleep(0.05)
        self._let_go()

    def _let_go(self) -> None:
        """Close the keeper's input, which ends it if it still runs."""
        stream = self._stream
        if stream is not None:
            stream.shut_down()  # whoever waits for an answer hears of it
            with self._asking:
                stream.close()
                self._stream = None
