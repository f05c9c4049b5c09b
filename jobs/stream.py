"""The training tokens of one run, served by the host over a unix socket until the budget is used up.

A budget of tokens hands out each token once. With a budget of seconds the stream is the clock: it starts with the
first answer, and a text that is used up begins again in a new order.

The client is a candidate's program and may be hostile. One thread with one selector serves all connections; what a
connection may hold (an unfinished line, an unread answer) and how often it may err is bounded, so it slows only itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import tempfile
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xar_agent.errors import DataUnavailable
from xar_agent.jobs.tokens import ITEM_BYTES, TokenArray, TokenLanes, TokenText
from xar_agent.sandbox.held import HeldFolder

MAX_ANSWER_TOKENS = 1 << 22
"""Sixteen steps of a large run; an answer that nobody reads holds 8 MiB of the host."""
MAX_LINE_BYTES = 1024
MAX_CONNECTIONS = 32
MAX_BAD_REQUESTS = 1000
"""Over all connections; then the stream ends. A correct client makes none."""
MAX_SOCKET_PATH_BYTES = 107
TICK_S = 0.2
RECEIVE_BYTES = 4096


class BadRequest(Exception):
    """The client asked for something that is not on offer; the text goes back to it."""


@dataclass(slots=True)
class Connection:
    """One client: what it has sent without a line end yet, and what it has not read yet."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    answer: memoryview = field(default_factory=lambda: memoryview(b""))
    skipping: bool = False
    """Inside a line that was too long: everything up to its end is dropped."""


def parse_request(line: bytes, max_length: int) -> tuple[int, int]:
    """Rows and length of a request line.

    Raises:
        BadRequest: it is not a JSON object with two sensible whole numbers.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("not a line of JSON") from None
    if not isinstance(request, dict):
        raise BadRequest('expected {"rows": B, "length": T}')
    rows, length = request.get("rows"), request.get("length")
    if type(rows) is not int or type(length) is not int or rows < 1 or length < 1:
        raise BadRequest("rows and length must be whole numbers above 0")
    if length > max_length:
        raise BadRequest(f"length may be {max_length} at most")
    return rows, length


class TokenServer:
    """Serves one run's token stream until closed; use it as a context manager.

    Args:
        tokens: the training text.
        budget: input tokens that may be handed out, or seconds from the first answer on.
        seed: decides the order, together with the sequence of requests.
        clock: the unit of the budget, and of ``left`` in every answer.
        folder: where the socket goes if its path is short enough; else a temporary folder.
        on_request: called in the server's thread before each good request is answered, with the number answered so far.
    """

    def __init__(
        self,
        tokens: TokenText | TokenArray | array[int],
        *,
        budget: int,
        seed: int,
        clock: Literal["tokens", "seconds"] = "tokens",
        folder: Path | None = None,
        on_request: Callable[[int], None] | None = None,
    ) -> None:
        self.budget = budget
        self._clock = clock
        text = TokenArray(tokens) if isinstance(tokens, array) else tokens
        self._lanes = TokenLanes(text, seed, endless=clock == "seconds")
        self._began_s: float | None = None
        self._failure: DataUnavailable | None = None
        self._on_request = on_request
        self._served = 0
        self._answered = 0
        self._n_bad = 0
        self._connections: dict[socket.socket, Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._own_folder = socket_folder(folder)
        self.path = (self._own_folder.path if self._own_folder else folder or Path()) / f"d{os.urandom(3).hex()}.sock"
        self._listener = self._listen()
        self._thread = threading.Thread(target=self._serve, name="token-server", daemon=True)
        self._thread.start()

    @property
    def served(self) -> int:
        """Input tokens handed out so far."""
        return self._served

    @property
    def used_s(self) -> float | None:
        """Seconds since the first answer; None before it."""
        return None if self._began_s is None else time.monotonic() - self._began_s

    @property
    def over_s(self) -> float:
        """Seconds since a budget of seconds ended; 0 before, and for a budget of tokens."""
        return max(0.0, (self.used_s or 0.0) - self.budget) if self._clock == "seconds" else 0.0

    def close(self) -> None:
        """End the stream and remove the socket. Calling twice is fine."""
        self._closing.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)
        if self._own_folder:
            self._own_folder.close()

    def __enter__(self) -> TokenServer:
        return self

    def __exit__(self, *exception: object) -> None:
        """End the stream.

        Raises:
            DataUnavailable: the text could not be read on; what the client then did is not its fault.
        """
        self.close()
        if self._failure:
            raise self._failure

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        # The program in the sandbox runs as another user; it can reach only what is bound into the sandbox.
        self.path.chmod(0o666)
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        return listener

    def _serve(self) -> None:
        try:
            while not self._closing.is_set():
                for key, _ in self._selector.select(TICK_S):
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._step(self._connections[key.fileobj])  # type: ignore[index]
        except DataUnavailable as error:  # it belongs to whoever closes the stream
            self._failure = error
        finally:
            for connection in list(self._connections.values()):
                self._drop(connection)
            self._listener.close()
            self._selector.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # gone again, or no descriptors left: it may try again
            return
        if len(self._connections) >= MAX_CONNECTIONS or self._n_bad >= MAX_BAD_REQUESTS:
            client.close()
            return
        client.setblocking(False)
        self._connections[client] = Connection(client)
        self._selector.register(client, selectors.EVENT_READ)

    def _drop(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        del self._connections[connection.socket]
        connection.socket.close()

    def _step(self, connection: Connection) -> None:
        """Send what waits, else read and answer one line. An unread answer stops the reading: nothing piles up."""
        try:
            if not connection.answer:
                self._receive(connection)
                self._answer_line(connection)
            while connection.answer:
                connection.answer = connection.answer[connection.socket.send(connection.answer) :]
                if not connection.answer:
                    self._answer_line(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
            return
        events = selectors.EVENT_WRITE if connection.answer else selectors.EVENT_READ
        self._selector.modify(connection.socket, events)

    def _receive(self, connection: Connection) -> None:
        chunk = connection.socket.recv(RECEIVE_BYTES)
        if not chunk or self._n_bad >= MAX_BAD_REQUESTS:
            raise ConnectionResetError("the client closed the stream, or erred too often")
        connection.received += chunk

    def _answer_line(self, connection: Connection) -> None:
        """Take one line out of what was received, if there is one, and prepare its answer."""
        line, end, rest = bytes(connection.received).partition(b"\n")
        if not end:
            if len(line) > MAX_LINE_BYTES:
                self._n_bad += 1  # every such chunk counts, so an endless line ends soon
                connection.skipping = True
                connection.received.clear()
            return
        connection.received = bytearray(rest)
        too_long, connection.skipping = connection.skipping or len(line) > MAX_LINE_BYTES, False
        try:
            if too_long:
                raise BadRequest(f"a request may have {MAX_LINE_BYTES} bytes at most")
            connection.answer = memoryview(self._take(*parse_request(line, self._lanes.max_length)))
        except BadRequest as error:
            self._n_bad += 1
            connection.answer = memoryview(json.dumps({"error": str(error)}).encode() + b"\n")

    def _take(self, rows: int, length: int) -> bytes:
        granted = self._granted(rows, length)
        if granted * length > MAX_ANSWER_TOKENS:
            raise BadRequest(f"rows times length may be {MAX_ANSWER_TOKENS} at most")
        if self._on_request:
            self._on_request(self._answered)
        taken = self._lanes.take(granted, length)
        self._served += len(taken) * length
        self._answered += 1
        if self._began_s is None:
            self._began_s = time.monotonic()
        header = {"rows": len(taken), "length": length, "itemsize": ITEM_BYTES, "left": self._left()}
        return b"".join([json.dumps(header).encode(), b"\n", *taken])

    def _granted(self, rows: int, length: int) -> int:
        """How many of the rows that are asked for the budget allows."""
        if self._clock == "tokens":
            return min(rows, (self.budget - self._served) // length)
        return rows if self._left() > 0 else 0

    def _left(self) -> int | float:
        """What is left of the budget, in its unit."""
        if self._clock == "tokens":
            return self.budget - self._served
        return max(0.0, self.budget - (self.used_s or 0.0))


def socket_folder(wanted: Path | None) -> HeldFolder | None:
    """A new short-named temporary folder, or None when the wanted one will do: the kernel allows 107 bytes of path."""
    if wanted is not None and len(os.fsencode(wanted.absolute())) + 16 <= MAX_SOCKET_PATH_BYTES:
        return None
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(parent) + 32 <= MAX_SOCKET_PATH_BYTES:
            with contextlib.suppress(OSError):
                held = HeldFolder("io", parent=Path(parent))
                held.path.chmod(0o711)
                return held
    raise DataUnavailable("no short path for the token stream's socket", "set TMPDIR to a short, writable folder")
