"""Score a candidate on held-out text: loss in nats a token, and whether the model is causal and without memory.

    python evaluator.py '{"split": "val", "seed": 1, "rows": null, "settings": {...}}'

Talks to the host in frames on stdin and stdout: one JSON line with "nbytes", then that many bytes. The host starts the
workers and relays to them. Their replies are hostile until checked; the log-softmax is computed here.

Checks, each with a pass or a reason:
- shape: the model loads and answers each batch with float32 logits (rows, tokens, vocabulary), for any 1..T tokens;
- finite: no NaN or infinity;
- normalised: each position's logits span a range in which float32 still resolves a loss to about 0.001 nats, so that
  the distribution that this file normalises is the one that the model states;
- prefix_audit: each row once, in a fresh worker, cut after a random position t: the loss at t must be what it was with
  the rest of the row in view (every t is drawn equally often);
- stateless: rows shuffled and regrouped in a fresh worker must have the losses that they had before.
"""

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

BATCH_ROWS = 64
STATELESS_SHARE = 4  # one row in four is scored again
STATELESS_BATCHES = (17, 64, 5, 40)  # unlike the first pass
MAX_LOGIT_RANGE = 10_000.0  # float32 spacing is 0.001 there
# What honest models may differ by: bfloat16 ones were seen to, by 0.0003 nats in mean and median, and by 0.03
# at one position in a hundred. A run's noise is 0.04 nats (sd over seeds): a leak worth a quarter of that is refused.
MAX_MEAN_NATS = 0.01
MAX_MEDIAN_NATS = 0.005
MAX_CHANGED_SHARE = 0.01
CHANGED_NATS, CHANGED_RELATIVE = 0.05, 0.02  # a position has changed when it differs by 0.05 nats plus 2 % of its loss

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


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

    def logits(self, x: Ids) -> NDArray[np.float32]:
        """What the model says about ids (B, T): (B, T, V), checked for shape, finiteness and range."""
        shape = [*x.shape, self._vocab]
        nbytes = 4 * math.prod(shape)
        head = {"op": "forward", "shape": list(x.shape), "dtype": "int64", "nbytes": x.nbytes}
        frame = {"op": "call", "id": self._name, "max_reply": nbytes, "head": head}
        reply, data = self._host.ask(frame, x.astype("<i8").tobytes())
        if reply.get("op") != "logits":
            raise CheckFailed("shape", f"the model failed on {x.shape[0]} rows of {x.shape[1]}: {message_of(reply)}")
        if reply.get("shape") != shape or reply.get("dtype") != "float32" or len(data) != nbytes:
            found = f"{reply.get('shape')} {reply.get('dtype')}, {len(data)} bytes"
            raise CheckFailed("shape", f"expected logits {shape} float32, got {found:.200}")
        return self._usable(np.frombuffer(data, dtype="<f4").reshape(shape))

    def _usable(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raise CheckFailed where a loss would mean nothing."""
        if not np.isfinite(logits).all():
            raise CheckFailed(
                "finite", f"{int((~np.isfinite(logits)).sum())} of {logits.size} logits are NaN or infinite"
            )
        widest = max(float(np.abs(logits).max()), float((logits.max(-1) - logits.min(-1)).max()))
        self.largest_range = max(self.largest_range, widest)
        if widest > MAX_LOGIT_RANGE:
            raise CheckFailed("normalised", f"logits span {widest:.3g}, more than {MAX_LOGIT_RANGE:.0f}")
        return logits

    def successor(self, name: str) -> "Candidate":
        """A fresh worker in the place of this one, which is ended."""
        self.stop()
        return Candidate(self._host, name, self._vocab)

    def stop(self) -> None:
        """End the worker."""
        self._host.ask({"op": "stop", "id": self._name})


def message_of(reply: dict[str, Any]) -> str:
    """What an error frame says, on one bounded line."""
    return " ".join(str(reply.get("message", "no message")).split())[:1000]


def token_losses(logits: NDArray[np.float32], targets: Ids) -> Floats:
    """Cross-entropy in nats, float64: logits (..., V), targets (...)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[..., None], -1)[..., 0]
    return np.asarray(np.log(np.exp(shifted, out=shifted).sum(-1)) - chosen)


def load_rows(folder: Path, n_rows: int, length: int) -> tuple[Ids, float]:
    """Rows of length + 1 ids spread evenly over the split without overlap: (N, length + 1), and bytes a token."""
    meta = json.loads((folder / "meta.json").read_text())
    (path,) = folder.glob("*.bin")
    ids = np.fromfile(path, dtype="<u2").astype(np.int64)
    n_rows = min(n_rows, len(ids) // (length + 1))
    starts = np.arange(n_rows) * (len(ids) - length - 1) // max(1, n_rows - 1)
    return ids[starts[:, None] + np.arange(length + 1)], meta["bytes"] / meta["tokens"]


def score(candidate: Candidate, rows: Ids, batches: tuple[int, ...]) -> Floats:
    """Loss of each token (N, T), taken in batches whose sizes cycle through ``batches``."""
    losses: list[Floats] = []
    start = 0
    while start < len(rows):
        batch = rows[start : start + batches[len(losses) % len(batches)]]
        losses.append(token_losses(candidate.logits(batch[:, :-1]), batch[:, 1:]))
        start += len(batch)
    return np.concatenate(losses)


def score_prefixes(candidate: Candidate, rows: Ids, cuts: Ids) -> Floats:
    """Loss of row i at position cuts[i] when the model sees nothing after it: (N,)."""
    losses = np.empty(len(rows))
    for t in np.unique(cuts):
        chosen = np.flatnonzero(cuts == t)
        logits = candidate.logits(rows[chosen, : t + 1])
        losses[chosen] = token_losses(logits[:, -1], rows[chosen, t + 1])
    return losses


def compare(name: str, known: Floats, again: Floats, *, blame: str) -> Check:
    """Whether losses that should agree do: by mean, by median and by the share of positions that have changed."""
    difference = again - known
    mean, median = float(difference.mean()), float(np.median(np.abs(difference)))
    changed = float((np.abs(difference) > CHANGED_NATS + CHANGED_RELATIVE * known).mean())
    passed = abs(mean) <= MAX_MEAN_NATS and median <= MAX_MEDIAN_NATS and changed <= MAX_CHANGED_SHARE
    said = f"{blame}: mean {mean:+.4f} nats, median {median:.4f}, {changed:.1%} of positions changed"
    return Check(name, passed, "" if passed else said, float(np.abs(difference).max()))


def prefix_audit(candidate: Candidate, rows: Ids, losses: Floats, rng: np.random.Generator) -> Check:
    """Cut each row once; every position is cut in the same number of rows, give or take one."""
    n, length = losses.shape
    cuts = rng.permutation(np.concatenate([rng.permutation(length) for _ in range(-(-n // length))])[:n])
    order = rng.permutation(n)  # rows of one call come from all over the text
    again = np.empty(n)
    again[order] = score_prefixes(candidate, rows[order], cuts[order])
    blame = "losses change when the tokens that follow are cut off, so the model sees them"
    return compare("prefix_audit", losses[np.arange(n), cuts], again, blame=blame)


def stateless(candidate: Candidate, rows: Ids, losses: Floats, rng: np.random.Generator) -> Check:
    """Score a random part of the rows again, in other company."""
    chosen = rng.permutation(len(rows))[: max(1, len(rows) // STATELESS_SHARE)]
    again = score(candidate, rows[chosen], STATELESS_BATCHES)
    blame = "losses change with the order and grouping of rows (state between calls, mixing within a batch, or dropout)"
    return compare("stateless", losses[chosen], again, blame=blame)


def evaluate(host: Host, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result frame: metric null where there is none, every check that was made."""
    settings = request["settings"]
    length, vocab = settings["block"], settings["vocab"]
    default = settings["smoke_rows"] if request["split"] == "smoke" else settings["val_tokens"] // length
    rows, bytes_per_token = load_rows(folder, request["rows"] or default, length)
    rng = np.random.default_rng(request["seed"])
    # A smoke test asks whether it works, and a worker costs seconds to start: there one worker answers everything.
    restart = request["split"] != "smoke"
    metrics: dict[str, float] = {}
    checks: list[Check] = []
    try:
        candidate = Candidate(host, "score", vocab)
        losses = score(candidate, rows, (BATCH_ROWS,))
        loss = float(losses.mean())
        metrics = {"val_loss": loss, "val_bpb": loss / math.log(2) / bytes_per_token, "val_tokens": losses.size}
        checks = [Check("shape", True), Check("finite", True)]
        checks.append(Check("normalised", True, figure=candidate.largest_range))
        candidate = candidate.successor("prefix") if restart else candidate
        checks.append(prefix_audit(candidate, rows, losses, rng))
        candidate = candidate.successor("stateless") if restart else candidate
        checks.append(stateless(candidate, rows, losses, rng))
        candidate.stop()
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
