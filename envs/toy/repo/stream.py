"""Read training tokens from the host until the budget is used up: a number of tokens, or of seconds.

The host owns the text and the clock and counts what it hands out, so a budget is real. A clock of seconds starts with
the first read. This file is protected.
"""

import json
import os
import socket
import sys
from array import array


class TokenStream:
    """A connection to the host's token stream.

    Attributes:
        budget: what this run may use, in tokens or in seconds.
        left: what is left of it.
        tokens: input tokens read so far.
    """

    def __init__(self, path: str | None = None, budget: int | None = None) -> None:
        self.budget = int(os.environ["XAR_BUDGET"]) if budget is None else budget
        self.left: float = self.budget
        self.tokens = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path or os.environ["XAR_DATA"])
        self._reader = self._socket.makefile("rb")

    @property
    def fraction_used(self) -> float:
        """Share of the budget that is used, 0 at the start and 1 at the end: schedules follow this."""
        return min(1.0, 1.0 - self.left / self.budget)

    def read(self, rows: int, length: int) -> "array[int]":
        """Take the next ``rows`` rows: ``rows * length`` tokens.

        Each row is ``length + 1`` contiguous tokens (inputs are the first ``length``, targets the last ``length``).
        Near the end of the budget there may be fewer rows; an empty array means that the budget is used up.

        Returns:
            array("H") of n * (length + 1) token ids, n <= rows.

        Raises:
            ValueError: the host refused the request; the message says why.
            ConnectionError: the host has closed the stream.
        """
        self._socket.sendall(json.dumps({"rows": rows, "length": length}).encode() + b"\n")
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the token stream was closed by the host")
        header = json.loads(line)
        if "error" in header:
            raise ValueError(f"token stream: {header['error']}")
        self.left = header["left"]
        self.tokens += header["rows"] * length
        n_bytes = header["rows"] * (length + 1) * header["itemsize"]
        payload = self._reader.read(n_bytes)
        if len(payload) != n_bytes:
            raise ConnectionError("the token stream ended within a batch")
        tokens = array("H", payload)
        if sys.byteorder == "big":
            tokens.byteswap()
        return tokens

    def __enter__(self) -> "TokenStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()
        self._socket.close()
