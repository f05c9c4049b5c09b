"""The streams of a command in a container: between the engine's connection and the pipes on our side."""

from __future__ import annotations

import contextlib
import os
import re
import select
from typing import IO

from xar_agent.sandbox.hijack import STDERR, STDOUT, Hijacked

GREETING = re.compile(rb"s ([0-9]{1,10})\n")
GREETING_BYTES = 16
"""What the first shell says on standard error before anything else, and its longest form."""
BUFFER_BYTES = 1 << 20
AFTER_BYTES = 16 << 20
"""More than what pipes and sockets hold of a command that has ended."""


class Streams:
    """Between the engine's connection and our side: bytes for stdin, or pipes for both; never blocking."""

    def __init__(self, stdin: bytes | None) -> None:
        self.started = False
        self.shell = 0
        """Pid of the first shell inside, once started."""
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self._stream: Hijacked | None = None
        self._input = bytearray(stdin or b"")
        self._from = self._to = -1
        self._pending, self._said = bytearray(), bytearray()
        self._bound = BUFFER_BYTES
        self._kept: list[bytes] = []
        if stdin is None:
            self._from, ours = os.pipe()
            self.stdin = os.fdopen(ours, "wb")
            theirs, self._to = os.pipe()
            self.stdout = os.fdopen(theirs, "rb")
            os.set_blocking(self._from, False)
            os.set_blocking(self._to, False)

    def connect(self, stream: Hijacked) -> None:
        """This is the engine's side."""
        self._stream = stream

    @property
    def at_end(self) -> bool:
        """Whether all writers inside have closed the output."""
        return self._stream is None or self._stream.at_end

    def exchange(self, wake: int, timeout_s: float) -> bool:
        """Move what can be moved; whether somebody woke us."""
        poller = select.poll()
        poller.register(wake, select.POLLIN)
        stream = None if self.at_end else self._stream
        events = select.POLLIN if len(self._pending) < self._bound else 0
        if self._input:
            events |= select.POLLOUT
        if stream is not None and events:
            poller.register(stream, events)
        if self._from >= 0 and len(self._input) < BUFFER_BYTES:
            poller.register(self._from, select.POLLIN)
        if self._pending and self._to >= 0:
            poller.register(self._to, select.POLLOUT)
        ready = dict(poller.poll(timeout_s * 1000))
        if self._from in ready:
            self._read_input()
        if stream is not None:
            at_socket = ready.get(stream.fileno(), 0)
            if at_socket & select.POLLOUT:
                self._send_input(stream)
            if at_socket & ~select.POLLOUT:
                stream.receive()
                self._sort(stream)
        if self._pending:
            self._write_output()
        return wake in ready

    def take_output(self) -> list[bytes]:
        """What goes into the result and the log, since the last call."""
        taken, self._kept = self._kept, []
        return taken

    def unsorted(self) -> str:
        """What the engine said in plain words instead of frames."""
        return "" if self._stream is None else self._stream.unframed()

    def _sort(self, stream: Hijacked) -> None:
        for number, data in stream.frames():
            if not self.started and number == STDERR:
                data = self._greet(data)
            if data and number == STDOUT and self.stdout is not None:
                self._pending += data
            elif data:
                self._kept.append(data)

    def _greet(self, data: bytes) -> bytes:
        """Take the greeting off; whoever tampers with it has its words among the output."""
        self._said += data
        if b"\n" not in self._said and len(self._said) < GREETING_BYTES:
            return b""
        self.started = True
        greeting = GREETING.match(self._said)
        self.shell = int(greeting[1]) if greeting else 0
        return bytes(self._said[greeting.end() :] if greeting else self._said)

    def _read_input(self) -> None:
        data = os.read(self._from, BUFFER_BYTES)
        self._input += data
        if not data:
            self._shut("_from")
            if not self._input and self._stream is not None:
                self._stream.end_of_input()

    def _send_input(self, stream: Hijacked) -> None:
        try:
            del self._input[: stream.send(bytes(memoryview(self._input)[:BUFFER_BYTES]))]
        except OSError:
            self._input.clear()
        if not self._input and self._from < 0:
            stream.end_of_input()

    def _write_output(self) -> None:
        try:
            del self._pending[: os.write(self._to, memoryview(self._pending)[:BUFFER_BYTES])]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self._pending.clear()

    def _shut(self, name: str) -> None:
        fd: int = getattr(self, name)
        if fd >= 0:
            setattr(self, name, -1)
            os.close(fd)

    def lift_bound(self) -> None:
        """The command has ended: take all that is still on its way, read or not."""
        self._bound = AFTER_BYTES

    def hang_up(self) -> None:
        """Close the connection and the command's input."""
        if self._stream is not None:
            self._stream.close()
        self._shut("_from")

    def deliver(self) -> None:
        """Hand over what a slow reader has not taken yet, until it has, or closes its end."""
        poller = select.poll()
        if self._to >= 0:
            poller.register(self._to, select.POLLOUT)
        while self._pending and self._to >= 0:
            poller.poll()
            self._write_output()

    def close_theirs(self) -> None:
        """The ends that the command had."""
        self._shut("_from")
        self._shut("_to")

    def close_ours(self) -> None:
        """The ends that our side has."""
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
