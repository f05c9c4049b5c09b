"""Score a candidate on held-out text: loss in nats a character, and whether the model is causal and without memory.

    python evaluator.py '{"split": "val", "seed": 1, "rows": null, "settings": {...}}'

Talks to the host in frames on stdin and stdout: one JSON line with "nbytes", then that many bytes. The host starts the
workers and relays to them. Their replies are hostile until checked. Standard library only.

Checks, each with a pass or a reason:
- shape: the model loads and answers each batch with float32 logits (rows, characters, vocabulary), for any 1..T;
- finite: no NaN or infinity;
- normalised: each position's logits span a range in which float32 still resolves a loss to about 0.001 nats;
- prefix_audit: each row once, in a fresh worker, cut after a random position t: the loss at t must be what it was with
  the rest of the row in view (every t is drawn equally often);
- stateless: rows shuffled and regrouped in a fresh worker must have the losses that they had before.
"""

import json
import math
import os
import random
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, BinaryIO

BATCH_ROWS = 64
STATELESS_SHARE = 4  # one row in four is scored again
STATELESS_BATCHES = (7, 33, 2)  # unlike the first pass
MAX_LOGIT_RANGE = 10_000.0  # float32 spacing is 0.001 there
# A run's noise is about 0.002 nats (sd over seeds); honest models differ by less than 1e-6.
MAX_MEAN_NATS = 0.001
MAX_CHANGED_SHARE = 0.005
CHANGED_NATS = 0.01

Rows = list[list[int]]


class CheckFailed(Exception):
    """A check that ends the evaluation: there are no losses to go on with."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    reason: str = ""
    figure: float | None = None
    """Largest difference in nats for prefix_audit and stateless, largest range for normalised."""

    def as_json(self) -> dict[str, Any]:
        """As the host expects it."""
        return {"name": self.name, "passed": self.passed, "reason": self.reason, "figure": self.figure}


class Host:
    """The frames between this process and the host."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer = reader, writer

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Write one frame."""
        self._writer.write(json.dumps({**header, "nbytes": len(payload)}).encode() + b"\n")
        self._writer.write(payload)
        self._writer.flush()

    def ask(self, header: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Write one frame and read the answer."""
        self.send(header, payload)
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the host has gone")
        reply = json.loads(line)
        data = self._reader.read(reply["nbytes"])
        if len(data) != reply["nbytes"]:
            raise EOFError("the host has gone within a frame")
        return reply, data


class Candidate:
    """A fresh worker process that holds the candidate's model."""

    def __init__(self, host: Host, name: str, vocab: int) -> None:
        self._host, self._name, self._vocab = host, name, vocab
        self.largest_range = 0.0
        reply, _ = host.ask({"op": "worker", "id": name})
        if reply.get("op") != "ready":
            raise CheckFailed("shape", f"the model could not be loaded: {message_of(reply)}")

    def losses(self, rows: Rows) -> list[list[float]]:
        """Loss of each target (B, T) of rows of T + 1 ids, once the logits have passed shape, finiteness and range."""
        n_rows, length = len(rows), len(rows[0]) - 1
        shape, nbytes = [n_rows, length, self._vocab], 4 * n_rows * length * self._vocab
        ids = little_endian(array("q", (token for row in rows for token in row[:-1]))).tobytes()
        head = {"op": "forward", "shape": [n_rows, length], "dtype": "int64", "nbytes": len(ids)}
        reply, data = self._host.ask({"op": "call", "id": self._name, "max_reply": nbytes, "head": head}, ids)
        if reply.get("op") != "logits":
            raise CheckFailed("shape", f"the model failed on {n_rows} rows of {length}: {message_of(reply)}")
        if reply.get("shape") != shape or reply.get("dtype") != "float32" or len(data) != nbytes:
            found = f"{reply.get('shape')} {reply.get('dtype')}, {len(data)} bytes"
            raise CheckFailed("shape", f"expected logits {shape} float32, got {found:.200}")
        values = little_endian(array("f", data)).tolist()
        positions = [values[i : i + self._vocab] for i in range(0, len(values), self._vocab)]
        targets = [token for row in rows for token in row[1:]]
        flat = [self._loss(logits, target) for logits, target in zip(positions, targets, strict=True)]
        return [flat[i : i + length] for i in range(0, len(flat), length)]

    def _loss(self, logits: list[float], target: int) -> float:
        """Cross-entropy in nats; raises CheckFailed where it would mean nothing."""
        if not all(map(math.isfinite, logits)):
            raise CheckFailed("finite", "a logit is NaN or infinite")
        largest = max(logits)
        widest = max(abs(largest), largest - min(logits))
        self.largest_range = max(self.largest_range, widest)
        if widest > MAX_LOGIT_RANGE:
            raise CheckFailed("normalised", f"logits span {widest:.3g}, more than {MAX_LOGIT_RANGE:.0f}")
        return math.log(math.fsum(math.exp(x - largest) for x in logits)) + largest - logits[target]

    def stop(self) -> None:
        """End the worker."""
        self._host.ask({"op": "stop", "id": self._name})


def little_endian(values: "array[Any]") -> "array[Any]":
    """Swap to or from the byte order of the frames."""
    if sys.byteorder == "big":
        values.byteswap()
    return values


def message_of(reply: dict[str, Any]) -> str:
    """What an error frame says, on one bounded line."""
    return " ".join(str(reply.get("message", "no message")).split())[:1000]


def load_rows(folder: Path, n_rows: int, length: int) -> tuple[Rows, float]:
    """Rows of length + 1 ids spread evenly over the split without overlap, and bytes a character."""
    meta = json.loads((folder / "meta.json").read_text())
    (path,) = folder.glob("*.bin")
    ids = little_endian(array("H", path.read_bytes())).tolist()
    n_rows = min(n_rows, len(ids) // (length + 1))
    starts = [i * (len(ids) - length - 1) // max(1, n_rows - 1) for i in range(n_rows)]
    return [ids[start : start + length + 1] for start in starts], meta["bytes"] / meta["tokens"]


def score(candidate: Candidate, rows: Rows, batches: tuple[int, ...]) -> list[list[float]]:
    """Loss of each character (N, T), taken in batches whose sizes cycle through ``batches``."""
    losses: list[list[float]] = []
    call = 0
    while len(losses) < len(rows):
        losses += candidate.losses(rows[len(losses) : len(losses) + batches[call % len(batches)]])
        call += 1
    return losses


def compare(name: str, known: list[float], again: list[float], *, blame: str) -> Check:
    """Whether losses that should agree do: by mean and by the share of positions that have changed."""
    differences = [b - a for a, b in zip(known, again, strict=True)]
    mean, middle = fmean(differences), median(map(abs, differences))
    changed = fmean(abs(difference) > CHANGED_NATS for difference in differences)
    passed = abs(mean) <= MAX_MEAN_NATS and middle <= MAX_MEAN_NATS and changed <= MAX_CHANGED_SHARE
    said = f"{blame}: mean {mean:+.4f} nats, median {middle:.4f}, {changed:.1%} of positions changed"
    return Check(name, passed, "" if passed else said, max(map(abs, differences)))


def prefix_audit(host: Host, rows: Rows, losses: list[list[float]], vocab: int, rng: random.Random) -> Check:
    """Cut each row once; every position is cut in the same number of rows, give or take one."""
    length = len(losses[0])
    rounds = [t for _ in range(-(-len(rows) // length)) for t in rng.sample(range(length), length)]
    cuts = rng.sample(rounds[: len(rows)], len(rows))
    candidate = Candidate(host, "prefix", vocab)
    again = [0.0] * len(rows)
    for t in sorted(set(cuts)):
        chosen = rng.sample([i for i, cut in enumerate(cuts) if cut == t], cuts.count(t))
        for i, row in zip(chosen, candidate.losses([rows[i][: t + 2] for i in chosen]), strict=True):
            again[i] = row[-1]
    candidate.stop()
    blame = "losses change when the characters that follow are cut off, so the model sees them"
    return compare("prefix_audit", [row[t] for row, t in zip(losses, cuts, strict=True)], again, blame=blame)


def stateless(host: Host, rows: Rows, losses: list[list[float]], vocab: int, rng: random.Random) -> Check:
    """Score a random part of the rows again, in other company."""
    chosen = rng.sample(range(len(rows)), max(1, len(rows) // STATELESS_SHARE))
    candidate = Candidate(host, "stateless", vocab)
    again = score(candidate, [rows[i] for i in chosen], STATELESS_BATCHES)
    candidate.stop()
    known = [loss for i in chosen for loss in losses[i]]
    blame = "losses change with the order and grouping of rows (state between calls, mixing within a batch, or noise)"
    return compare("stateless", known, [loss for row in again for loss in row], blame=blame)


def evaluate(host: Host, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result frame: metric null where there is none, every check that was made."""
    settings = request["settings"]
    length, vocab = settings["block"], settings["vocab"]
    default = settings["smoke_rows"] if request["split"] == "smoke" else settings["val_tokens"] // length
    rows, bytes_per_token = load_rows(folder, request["rows"] or default, length)
    rng = random.Random(request["seed"])
    metrics: dict[str, float] = {}
    checks: list[Check] = []
    try:
        candidate = Candidate(host, "score", vocab)
        losses = score(candidate, rows, (BATCH_ROWS,))
        candidate.stop()
        loss = fmean(loss for row in losses for loss in row)
        metrics = {"val_loss": loss, "val_bpb": loss / math.log(2) / bytes_per_token, "val_tokens": len(rows) * length}
        checks = [Check("shape", True), Check("finite", True)]
        checks.append(Check("normalised", True, figure=candidate.largest_range))
        checks.append(prefix_audit(host, rows, losses, vocab, rng))
        checks.append(stateless(host, rows, losses, vocab, rng))
    except CheckFailed as failed:
        checks = [check for check in checks if check.name != failed.name]
        checks.append(Check(failed.name, False, str(failed)))
    return {
        "op": "result",
        "metric": metrics.get("val_loss"),
        "metrics": metrics,
        "checks": [check.as_json() for check in checks],
    }


def main() -> None:
    """One evaluation."""
    host = Host(sys.stdin.buffer, sys.stdout.buffer)
    host.send(evaluate(host, json.loads(sys.argv[1]), Path(os.environ["XAR_VAL"])))


if __name__ == "__main__":
    main()
