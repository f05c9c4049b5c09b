"""The training text as token ids on disk, and the order in which one seed's run sees it."""

from __future__ import annotations

import json
import os
import random
import sys
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from xar_agent.errors import DataUnavailable

LANES = 512
ITEM_BYTES = 2
"""Token ids are uint16."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of token ids in a file."""

    path: Path
    offset: int
    """Bytes in front of the first token: a header, or what belongs to another split."""
    tokens: int


class TokenText:
    """Token ids, uint16 little endian, in shards that are read piece by piece: a corpus of 20 GB costs no memory.

    Files are read, not mapped: one that is cut short meanwhile is an error here and not the end of the process.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Open every shard.

        Raises:
            DataUnavailable: one is missing or shorter than it should be.
        """
        self._shards = tuple(shards)
        self._ends = list(accumulate(shard.tokens for shard in shards))
        self._descriptors: list[int] = []
        weakref.finalize(self, close_all, self._descriptors)
        for shard in shards:
            try:
                self._descriptors.append(os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC))
                n_bytes = os.fstat(self._descriptors[-1]).st_size
            except OSError as error:
                raise DataUnavailable(f"cannot read the training tokens {shard.path}: {error.strerror}") from error
            if n_bytes < shard.offset + shard.tokens * ITEM_BYTES:
                raise DataUnavailable(f"the training tokens {shard.path} are cut short", "prepare the data again")

    def __len__(self) -> int:
        """Number of tokens."""
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> bytes:
        """The ids from ``start`` to before ``stop``.

        Raises:
            DataUnavailable: they cannot be read.
        """
        parts = []
        index = bisect_right(self._ends, start)
        while start < stop:
            shard, first = self._shards[index], self._ends[index] - self._shards[index].tokens
            n_bytes = (min(stop, self._ends[index]) - start) * ITEM_BYTES
            offset = shard.offset + (start - first) * ITEM_BYTES
            parts.append(read_exactly(self._descriptors[index], n_bytes, offset, shard.path))
            start, index = start + n_bytes // ITEM_BYTES, index + 1
        return parts[0] if len(parts) == 1 else b"".join(parts)


class TokenArray:
    """Token ids in memory, with the same face as a text on disk."""

    def __init__(self, tokens: array[int]) -> None:
        ordered = array("H", tokens)
        if sys.byteorder == "big":
            ordered.byteswap()
        self._bytes = ordered.tobytes()

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._bytes) // ITEM_BYTES

    def read(self, start: int, stop: int) -> bytes:
        """The ids from ``start`` to before ``stop``."""
        return self._bytes[start * ITEM_BYTES : stop * ITEM_BYTES]


def close_all(descriptors: list[int]) -> None:
    """Close files; for when nobody reads them any more."""
    for descriptor in descriptors:
        os.close(descriptor)


def read_exactly(descriptor: int, n_bytes: int, offset: int, path: Path) -> bytes:
    """``n_bytes`` at ``offset`` of an open file.

    Raises:
        DataUnavailable: it is shorter by now, or the disk fails.
    """
    try:
        found = os.pread(descriptor, n_bytes, offset)
        while len(found) < n_bytes:  # a read of more than 2 GiB, or one that a signal cut short
            more = os.pread(descriptor, n_bytes - len(found), offset + len(found))
            if not more:
                raise DataUnavailable(f"the training tokens {path} were cut short", "prepare the data again")
            found += more
    except OSError as error:
        raise DataUnavailable(f"cannot read the training tokens {path}: {error.strerror}") from error
    return found


def read_tokens(path: Path) -> TokenText:
    """All tokens of one ``.bin`` file of uint16, little endian.

    Raises:
        DataUnavailable: it is missing or cut short.
    """
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise DataUnavailable(f"cannot read the training tokens {path}: {error.strerror}") from error
    if n_bytes % ITEM_BYTES:
        raise DataUnavailable(f"the training tokens {path} are cut short: an odd number of bytes")
    return TokenText([Shard(path, 0, n_bytes // ITEM_BYTES)])


def read_split(folder: Path, name: str) -> TokenText:
    """The tokens of a split: the shards that its meta.json lists, else NAME.bin.

    Raises:
        DataUnavailable: they are missing, cut short or not listed as they should be.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        listed = meta.get("shards") if isinstance(meta, dict) else None
    except (OSError, ValueError):
        listed = None
    if listed is None:
        return read_tokens(folder / f"{name}.bin")
    try:
        return TokenText([Shard(folder / s["file"], int(s["offset"]), int(s["tokens"])) for s in listed])
    except (KeyError, TypeError, ValueError) as error:
        raise DataUnavailable(f"the shards in {folder / 'meta.json'} are not as they should be: {error!r}") from error


class TokenLanes:
    """The order in which one seed's run sees the training text.

    The text is read from a random offset on, around its end, and cut into lanes. A row continues its lane where that
    lane's last row ended; each round takes the lanes in a new random order. So each token is an input at most once,
    or with ``endless`` once in each pass: a text that is used up begins again with another offset and order.
    """

    def __init__(self, text: TokenText | TokenArray, seed: int, n_lanes: int = LANES, *, endless: bool = False) -> None:
        self._random = random.Random(f"token-lanes/{seed}")
        self._text = text
        self._endless = endless
        self._n_lanes = n_lanes
        self.lane_length = len(text) // n_lanes
        self.passes = 0
        """How often the text has been begun."""
        self._begin()

    @property
    def max_length(self) -> int:
        """Longest row, in input tokens."""
        return self.lane_length - 1

    def take(self, rows: int, length: int) -> list[bytes]:
        """Up to ``rows`` rows of ``length + 1`` tokens; fewer when the text is used up.

        Raises:
            DataUnavailable: the text cannot be read.
        """
        taken: list[bytes] = []
        while len(taken) < rows and (row := self._next_row(length)) is not None:
            taken.append(row)
        return taken

    def _begin(self) -> None:
        self.passes += 1
        self._offset = self._random.randrange(len(self._text)) if len(self._text) else 0
        self._cursors = [lane * self.lane_length for lane in range(self._n_lanes)]
        self._round: list[int] = []

    def _next_row(self, length: int) -> bytes | None:
        start = self._next_start(length)
        if start is None and self._endless and length <= self.max_length:
            self._begin()
            start = self._next_start(length)
        return None if start is None else self._read(start, start + length + 1)

    def _next_start(self, length: int) -> int | None:
        """Where the next row begins, counted from the offset; None when no lane has room for it."""
        for _ in range(2 * self._n_lanes):
            if not self._round:
                self._round = self._random.sample(range(self._n_lanes), self._n_lanes)
            lane = self._round.pop()
            start = self._cursors[lane]
            if start + length + 1 <= (lane + 1) * self.lane_length:
                self._cursors[lane] = start + length
                return start
        return None

    def _read(self, start: int, stop: int) -> bytes:
        size = len(self._text)
        start, stop = start + self._offset, stop + self._offset
        if start >= size or stop <= size:
            return self._text.read(start % size, start % size + stop - start)
        return self._text.read(start, size) + self._text.read(0, stop - size)
