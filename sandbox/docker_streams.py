"""The streams of a command in a container: between the engine's connection and the pipes on our side."""

from __future__ import annotations

import contextlib
import os
import select
from typing import IO

from xar_agent.sandbox.hijack import STDERR, STDOUT, Hijacked

STARTED = b"s\n"
"""What the first shell says on standard error before anything else."""
BUFFER_BYTES = 1 << 20


class Streams:
    """Between the engine's connection and our side: bytes for stdin, or pipes for both; never blocking."""

    def __init__(self, stream: Hijacked, stdin: bytes | None) -> None:
        self.stream = stream
        self.started = False
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self._input = bytearray(stdin or b"")
        self._input_open = bool(stdin)
        self._from = self._to = -1
        self._pending, self._said = bytearray(), bytearray()
        self._kept: list[bytes] = []
        if stdin is None:
            self._from, ours = os.pipe()
            self.stdin = os.fdopen(ours, "wb")
            theirs, self._to = os.pipe()
            self.stdout = os.fdopen(theirs, "rb")
            self._input_open = True
            os.set_blocking(self._from, False)
            os.set_blocking(self._to, False)

    def exchange(self, wake: int, timeout_s: float) -> bool:
        """Move what can be moved; whether somebody woke us."""
        poller = select.poll()
        poller.register(wake, select.POLLIN)
        events = select.POLLIN if not self.stream.at_end and len(self._pending) < BUFFER_BYTES else 0
        if self._input and not self.stream.at_end:
            events |= select.POLLOUT
        if events:
            poller.register(self.stream, events)
        if self._from >= 0 and len(self._input) < BUFFER_BYTES:
            poller.register(self._from, select.POLLIN)
        if self._pending and self._to >= 0:
            poller.register(self._to, select.POLLOUT)
        ready = dict(poller.poll(timeout_s * 1000))
        if self._from in ready:
            self._read_input()
        at_socket = ready.get(self.stream.fileno(), 0) if events else 0
        if at_socket & select.POLLOUT:
            self._send_input()
        if at_socket & ~select.POLLOUT:
            self.stream.receive()
            self._sort()
        if self._pending:
            self._write_output()
        return wake in ready

    def take_output(self) -> list[bytes]:
        """What goes into the result and the log, since the last call."""
        taken, self._kept = self._kept, []
        return taken

    def _sort(self) -> None:
        for number, data in self.stream.frames():
            if not self.started and number == STDERR:
                self._said += data
                self.started = bytes(self._said[: len(STARTED)]) == STARTED
                data = bytes(self._said[len(STARTED) :]) if self.started else b""
            if data and number == STDOUT and self.stdout is not None:
                self._pending += data
            elif data:
                self._kept.append(data)
        if self.stream.at_end and not self._pending:
            self._shut("_to")

    def _read_input(self) -> None:
        data = os.read(self._from, BUFFER_BYTES)
        self._input += data
        if not data:
            self._shut("_from")
            self._input_open = bool(self._input)
            if not self._input:
                self.stream.end_of_input()

    def _send_input(self) -> None:
        try:
            del self._input[: self.stream.send(bytes(self._input[:BUFFER_BYTES]))]
        except OSError:
            self._input.clear()
        if not self._input and self._from < 0:
            self.stream.end_of_input()

    def _write_output(self) -> None:
        try:
            del self._pending[: os.write(self._to, self._pending)]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self._pending.clear()
        if self.stream.at_end and not self._pending:
            self._shut("_to")

    def _shut(self, name: str) -> None:
        fd: int = getattr(self, name)
        if fd >= 0:
            os.close(fd)
            setattr(self, name, -1)

    def close_theirs(self) -> None:
        """The ends that the command had; what it wrote and nobody has read yet goes into the pipe as far as it fits."""
        if self._pending and self._to >= 0:
            with contextlib.suppress(OSError):
                os.write(self._to, self._pending)
        self._shut("_from")
        self._shut("_to")

    def close_ours(self) -> None:
        """The ends that our side has."""
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
