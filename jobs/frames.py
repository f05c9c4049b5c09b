"""Frames over a program's pipe: one JSON line with "nbytes", then that many bytes; with deadlines both ways.

The other side may be hostile: it may not read, not answer, answer too much or not in frames. Each of these ends in
``FrameError`` at the deadline at the latest.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from dataclasses import dataclass
from typing import Any

from xar_agent.errors import Interrupted
from xar_agent.sandbox.protocol import Process
from xar_agent.store import plain_json

MAX_HEADER_BYTES = 65_536
CHUNK_BYTES = 1 << 20
TICK_S = 0.2
"""How soon a request to cancel is noticed."""


class FrameError(Exception):
    """The other side does not speak in frames, or not in time; the text says what it did."""


class Late(FrameError):
    """It did not read or answer by the deadline."""


class WrongShape(FrameError):
    """The payload would be larger than allowed because of the shape that the header announces."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A header and its payload."""

    header: dict[str, Any]
    payload: bytes = b""

    @property
    def op(self) -> str:
        """What the frame is."""
        return str(self.header.get("op"))


class FramePipe:
    """The two ends of one process's pipe."""

    def __init__(self, process: Process, cancel: threading.Event | None = None) -> None:
        self._cancel = cancel
        self._write_fd = process.stdin.fileno()
        self._read_fd = process.stdout.fileno()
        self._received = bytearray()
        os.set_blocking(self._write_fd, False)
        os.set_blocking(self._read_fd, False)

    def send(self, frame: Frame, *, timeout_s: float) -> None:
        """Write one frame.

        Raises:
            FrameError: the other side has gone, or does not read.
            Interrupted: a cancellation was asked for meanwhile.
        """
        header = json.dumps({**frame.header, "nbytes": len(frame.payload)}).encode() + b"\n"
        deadline = time.monotonic() + timeout_s
        view = memoryview(header + frame.payload)
        while view:
            self._await(self._write_fd, select.POLLOUT, deadline, "did not read")
            try:
                view = view[os.write(self._write_fd, view[:CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise FrameError("has ended") from None

    def receive(self, *, timeout_s: float, max_payload: int) -> Frame:
        """Read one frame.

        Raises:
            FrameError: none came in time, it is too large, or it is no frame.
            Interrupted: a cancellation was asked for meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        header = parse_header(self._read_line(deadline))
        n_bytes = header["nbytes"]
        if n_bytes > max_payload:
            said = f"where {max_payload} are allowed"
            if "shape" in header:
                raise WrongShape(f"answered {n_bytes} bytes for shape {str(header['shape'])[:80]} {said}")
            raise FrameError(f"answered {n_bytes} bytes {said}")
        while len(self._received) < n_bytes:
            self._fill(deadline)
        payload = bytes(self._received[:n_bytes])
        del self._received[:n_bytes]
        return Frame(header, payload)

    def _read_line(self, deadline: float) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MAX_HEADER_BYTES:
                raise FrameError("answered a header that is too long")
            self._fill(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _fill(self, deadline: float) -> None:
        """Read what is there, waiting for something."""
        self._await(self._read_fd, select.POLLIN, deadline, "did not answer")
        try:
            chunk = os.read(self._read_fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            raise FrameError("has ended")
        self._received += chunk

    def _await(self, descriptor: int, events: int, deadline: float, otherwise: str) -> None:
        poll = select.poll()
        poll.register(descriptor, events)
        while True:
            if self._cancel and self._cancel.is_set():
                raise Interrupted("cancelled during the evaluation")
            left_s = deadline - time.monotonic()
            if left_s <= 0:  # also when it drips: each byte would begin a new wait
                raise Late(f"{otherwise} in time")
            if poll.poll(1000 * min(TICK_S, left_s)):
                return


def parse_header(line: bytes) -> dict[str, Any]:
    """A frame's header.

    Raises:
        FrameError: it is no JSON object with a sensible "nbytes".
    """
    try:
        header = plain_json(json.loads(line))
    except (ValueError, RecursionError):
        raise FrameError("answered a header that is not JSON") from None
    if not isinstance(header, dict) or type(header.get("nbytes")) is not int or header["nbytes"] < 0:
        raise FrameError("answered a header without a sensible nbytes")
    return header


def error_frame(message: str) -> Frame:
    """What the host says in the place of a worker that cannot answer."""
    return Frame({"op": "error", "message": message})
