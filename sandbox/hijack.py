"""A connection that the engine has handed over to us: raw bytes both ways, the way back in frames."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Any

STDOUT, STDERR = 1, 2
HEADER_BYTES = 8
CHUNK_BYTES = 1 << 18


class Hijacked:
    """The socket behind an attach or exec, never blocking."""

    def __init__(self, handed: Any) -> None:
        """``handed`` is what the SDK gives for ``socket=True``; it is kept, because the connection dies with it."""
        self._handed = handed
        self._socket: socket.socket = handed._sock
        self._socket.setblocking(False)
        # The reader of the HTTP header may have read on: what it holds is the start of the stream.
        reader = handed._response.raw._fp.fp
        with contextlib.suppress(BlockingIOError):
            self._received = bytearray(reader.peek() or b"")
        self.at_end = False

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    def receive(self) -> bool:
        """Take what is there; False at the end of the stream."""
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        self._received += data
        self.at_end = not data
        return bool(data)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """What has arrived so far, in order: the stream's number and bytes of it; a long frame comes in parts."""
        while len(self._received) >= HEADER_BYTES:
            stream = self._received[0]
            size = int.from_bytes(self._received[4:HEADER_BYTES], "big")
            part = bytes(self._received[HEADER_BYTES : HEADER_BYTES + size])
            if not part and size:
                return
            del self._received[: HEADER_BYTES + len(part)]
            if size > len(part):
                self._received[:0] = bytes([stream, 0, 0, 0]) + (size - len(part)).to_bytes(4, "big")
            if part:
                yield stream, part
            if size > len(part):
                return

    def unframed(self) -> str:
        """What the engine said in plain words instead of frames: why a command could not be started."""
        return " ".join(bytes(self._received).decode(errors="replace").split())[:300]

    def send(self, data: bytes) -> int:
        """How many of these bytes went out; 0 when there is no room.

        Raises:
            OSError: the other side is gone.
        """
        try:
            return self._socket.send(data[:CHUNK_BYTES])
        except BlockingIOError:
            return 0

    def end_of_input(self) -> None:
        """Nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def shut_down(self) -> None:
        """End the connection; whoever waits for it reads its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection. Calling twice is fine."""
        self.at_end = True
        self.shut_down()  # closing it waits for the SDK's readers to let go of it
        self._socket.close()
        with contextlib.suppress(ValueError):  # it flushes what has just been closed
            self._handed._response.close()


def readable(stream: Hijacked, timeout_s: float) -> bool:
    """Whether something arrives in time."""
    poller = select.poll()
    poller.register(stream, select.POLLIN)
    return bool(poller.poll(max(timeout_s, 0.0) * 1000))
