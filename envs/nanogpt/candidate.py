"""What the evaluator sees of a candidate: a worker behind the host's frames, its replies hostile until checked.

A frame is one JSON line with "nbytes", then that many bytes. The host starts the workers, relays, and has seen to it
that a reply is a frame of bounded size; what is in it is checked here. Whatever a worker sends ends in losses that mean
something or in ``CheckFailed``, never in another exception: that would count as a fault of the infrastructure.
"""

import json
import math
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MAX_LOGIT_RANGE = 10_000.0  # float32 spacing is 0.001 there
MAX_MESSAGE = 1000
MAX_SHOWN = 100
LEAST_LOSS = -0.001  # nats; what float32 may make of 0

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Reply = tuple[dict[str, Any], bytes]


class CheckFailed(Exception):
    """A check that ends the evaluation: there are no losses to go on with."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class Host:
    """The frames between this process and the host."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer = reader, writer

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Write one frame."""
        self._writer.write(json.dumps({**header, "nbytes": len(payload)}).encode() + b"\n")
        self._writer.write(payload)
        self._writer.flush()

    def ask(self, header: dict[str, Any], payload: bytes = b"") -> Reply:
        """Write one frame and read the answer.

        Raises:
            EOFError: the host has gone.
            CheckFailed: the answer passes on a header that cannot be read here.
        """
        self.send(header, payload)
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the host has gone")
        try:
            reply = json.loads(line)
            n_bytes = int(reply["nbytes"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise CheckFailed("shape", "the worker answered a header that is not plain JSON") from None
        data = self._reader.read(n_bytes)
        if len(data) != n_bytes:
            raise EOFError("the host has gone within a frame")
        return reply, data


class Candidate:
    """A fresh worker process that holds the candidate's model.

    Args:
        host: the frames.
        name: the worker's name at the host; it is started here.
        vocab: V.
        reduce: the worker takes the losses itself, since its logits are too many for a pipe. What it says then is a
            claim: see audits.py.

    Raises:
        CheckFailed: the model does not load.
    """

    def __init__(self, host: Host, name: str, vocab: int, *, reduce: bool = False) -> None:
        self._host, self._name, self._vocab, self._reduce = host, name, vocab, reduce
        self.largest_range = 0.0
        reply, _ = host.ask({"op": "worker", "id": name})
        if reply.get("op") != "ready":
            raise CheckFailed("shape", f"the model could not be loaded: {message_of(reply)}")

    def losses(self, rows: Ids) -> Floats:
        """Loss in nats of each token after the first: rows (B, T + 1) to (B, T)."""
        if not self._reduce:
            return token_losses(self._logits(rows[:, :-1], last=False), rows[:, 1:])
        n_rows, length = rows.shape[0], rows.shape[1] - 1
        array = self._ask({"op": "losses"}, rows, "losses", (n_rows, length), "float32").astype(np.float64)
        if array.min() < LEAST_LOSS or array.max() > MAX_LOGIT_RANGE:
            found = f"losses from {array.min():.4g} to {array.max():.4g} nats"
            raise CheckFailed("normalised", f"{found}: not those of a distribution over {self._vocab} tokens")
        return array

    def last_losses(self, prefixes: Ids, targets: Ids) -> Floats:
        """Loss in nats of the token that follows each prefix: (B, t) and (B,) to (B,); the worker is not told which."""
        return token_losses(self._logits(prefixes, last=True)[:, 0], targets)

    def successor(self, name: str) -> "Candidate":
        """A fresh worker in the place of this one, which is ended."""
        self.stop()
        after = Candidate(self._host, name, self._vocab, reduce=self._reduce)
        after.largest_range = self.largest_range
        return after

    def stop(self) -> None:
        """End the worker."""
        self._host.ask({"op": "stop", "id": self._name})

    def _logits(self, x: Ids, *, last: bool) -> NDArray[np.float32]:
        """What the model says about ids (B, T): (B, T, V), or (B, 1, V) for the last position alone."""
        shape = (x.shape[0], 1 if last else x.shape[1], self._vocab)
        dtype = "float16" if self._reduce else "float32"  # halves what large vocabularies send
        head = {"op": "forward", "last": last, "reply": dtype}
        logits = self._ask(head, x, "logits", shape, dtype).astype(np.float32)
        # In float64: the largest float32 minus the smallest is infinite in float32.
        top, bottom = logits.max(-1).astype(np.float64), logits.min(-1).astype(np.float64)
        widest = float(max(np.abs(top).max(), np.abs(bottom).max(), (top - bottom).max()))
        self.largest_range = max(self.largest_range, widest)
        if widest > MAX_LOGIT_RANGE:
            reason = f"logits span {widest:.3g}, more than {MAX_LOGIT_RANGE:.0f}: a loss is not resolved there"
            raise CheckFailed("normalised", reason)
        return logits

    def _ask(self, head: dict[str, Any], ids: Ids, op: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Send ids (B, T) to the worker; its finite numbers, of that shape and type.

        Raises:
            CheckFailed: they are not.
        """
        size = np.dtype(dtype).newbyteorder("<")
        n_bytes = size.itemsize * math.prod(shape)
        asked = {**head, "shape": list(ids.shape), "dtype": "int64", "nbytes": ids.size * 8}
        frame = {"op": "call", "id": self._name, "max_reply": n_bytes, "head": asked}
        reply, data = self._host.ask(frame, ids.astype("<i8").tobytes())
        if reply.get("op") != op:
            where = f"{ids.shape[0]} rows of {ids.shape[1]} tokens"
            raise CheckFailed("shape", f"the model failed on {where}: {message_of(reply)}")
        if reply.get("shape") != list(shape) or reply.get("dtype") != dtype or len(data) != n_bytes:
            found = f"{shown(reply.get('shape'))} {shown(reply.get('dtype'))}, {len(data)} bytes"
            raise CheckFailed("shape", f"expected {op} {list(shape)} {dtype}, got {found}")
        array = np.frombuffer(data, dtype=size).reshape(shape)
        n_bad = array.size - int(np.isfinite(array).sum())
        if n_bad:
            raise CheckFailed("finite", f"{n_bad} of {array.size} {op} are NaN or infinite")
        return array


def token_losses(logits: NDArray[np.float32], targets: Ids) -> Floats:
    """Cross-entropy in nats, float64: logits (..., V), targets (...)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[..., None], -1)[..., 0]
    return np.asarray(np.log(np.exp(shifted, out=shifted).sum(-1)) - chosen)


def message_of(reply: dict[str, Any]) -> str:
    """What an error frame says, on one bounded line."""
    return shown(reply.get("message", "no message"), MAX_MESSAGE)


def shown(value: Any, most: int = MAX_SHOWN) -> str:
    """A value of a hostile header as one bounded, printable line; what is nested is not followed."""
    if isinstance(value, list) and len(value) <= 8:
        return f"[{', '.join(shown(item, 20) if not isinstance(item, list) else '[...]' for item in value)}]"
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    text = " ".join(str(value)[: 2 * most].split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:most]
