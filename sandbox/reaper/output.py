"""The command's output: a bounded head and tail in memory, all of it (up to a cap) in a log."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from typing import Any

CHUNK = 1 << 20


class Output:
    """Head and tail of a stream in bounded memory, all of it (up to a cap) in a log."""

    def __init__(self, fd: int, log: int, job: dict[str, Any]) -> None:
        self.fd, self.log = fd, log
        self.room = job["log_bytes"] if log >= 0 else 0
        self.keep = job["keep_bytes"]
        self.head, self.tail = bytearray(), bytearray()
        self.n_bytes = 0

    def read(self) -> bool:
        """Take what is there; False at the end of the stream."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return True
        self.take(data)
        return bool(data)

    def take(self, data: bytes) -> None:
        """Keep what comes next."""
        self.n_bytes += len(data)
        self.write_log(data)
        free = self.keep - len(self.head)
        self.head += data[:free]
        self.tail += data[free:]
        if len(self.tail) > 2 * self.keep:
            del self.tail[: len(self.tail) - self.keep]

    def write_log(self, data: bytes) -> None:
        part = data[: self.room]
        self.room -= len(part)
        try:
            while part:
                part = part[os.write(self.log, part) :]
        except OSError:
            self.room = 0  # a full disk must not end the command

    def drain(self) -> None:
        """What is still in the pipe once all writers are gone."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        stop = self.n_bytes + 2 * CHUNK
        while self.n_bytes < stop and poller.poll(0) and self.read():
            pass

    def parts(self) -> tuple[bytes, bytes]:
        """Everything and nothing when it fits; else the first and the last half."""
        if self.n_bytes <= self.keep:
            return bytes(self.head), b""
        half = self.keep // 2
        rest = bytes(self.head[half:]) + bytes(self.tail)
        return bytes(self.head[:half]), rest[len(rest) - (self.keep - half) :]
