"""Files of GPT-2 token ids: where the ids begin, how many there are, and whether they are what they should be."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOCAB_SIZE = 50257  # GPT-2's; models may round it up
HEADER_BYTES = 1024  # 256 int32: magic, version, number of tokens, zeros
HEADER_MAGIC, HEADER_VERSION = 20240520, 1
CHUNK_TOKENS = 1 << 22


class PrepareError(Exception):
    """The data set cannot be built; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A run of ids in a file."""

    path: Path
    offset: int
    """Bytes in front of it."""
    n: int

    def chunks(self) -> Iterator[NDArray[np.uint16]]:
        """The ids, piece by piece."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.n, CHUNK_TOKENS):
                yield np.frombuffer(file.read(2 * min(CHUNK_TOKENS, self.n - start)), dtype="<u2")

    def part(self, start: int, stop: int) -> "Tokens":
        """From ``start`` to before ``stop``."""
        return replace(self, offset=self.offset + 2 * start, n=stop - start)


def open_tokens(path: Path) -> Tokens:
    """Where the ids of a file begin and how many there are."""
    size = path.stat().st_size
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise PrepareError(f"{path.name} is not a whole .npy file: {error}") from None
        if array.dtype != np.dtype("<u2") or array.ndim != 1:
            raise PrepareError(f"{path.name} has {array.dtype} {array.shape}; expected one dimension of uint16")
        return Tokens(path, size - array.nbytes, len(array))
    with path.open("rb") as file:
        head = np.frombuffer(file.read(HEADER_BYTES).ljust(HEADER_BYTES, b"\1"), dtype="<i4")
    if head[0] == HEADER_MAGIC and head[1] == HEADER_VERSION:
        if size != HEADER_BYTES + 2 * int(head[2]):
            found = (size - HEADER_BYTES) // 2
            raise PrepareError(f"{path.name} is cut short: its header says {head[2]:,} tokens, it has {found:,}")
        return Tokens(path, HEADER_BYTES, int(head[2]))
    if head[0] == HEADER_MAGIC or not head[3:].any():
        raise PrepareError(
            f"{path.name} has an unknown header: magic {head[0]}, version {head[1]}; "
            f"known is {HEADER_MAGIC}, version {HEADER_VERSION}, with uint16 ids of GPT-2's tokenizer"
        )
    if size % 2:
        raise PrepareError(f"{path.name} is cut short: uint16 ids, but an odd number of bytes")
    return Tokens(path, 0, size // 2)


def check_ids(tokens: Tokens) -> None:
    """Refuse ids that GPT-2's tokenizer has not."""
    largest = max((int(chunk.max()) for chunk in tokens.chunks()), default=0)
    if largest >= VOCAB_SIZE:
        raise PrepareError(
            f"{tokens.path.name} has the id {largest}: ids must be below {VOCAB_SIZE}, uint16 little endian, "
            "of GPT-2's tokenizer or a smaller one"
        )


def refuse_copies(files: list[Tokens]) -> None:
    """Two files with the same tokens would train twice on one text, or score what was trained on."""
    seen: dict[tuple[int, bytes], Tokens] = {}
    for tokens in files:
        key = (tokens.n, next(tokens.chunks(), np.zeros(0, "<u2"))[:4096].tobytes())
        other = seen.setdefault(key, tokens)
        same = other is not tokens and all(map(np.array_equal, other.chunks(), tokens.chunks()))
        if same:
            raise PrepareError(f"{other.path.name} and {tokens.path.name} hold the same tokens: leave one out")
