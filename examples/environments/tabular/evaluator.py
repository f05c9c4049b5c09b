"""Score a candidate on held-out rows: log loss, and whether each answer comes from its own row alone.

    python evaluator.py '{"split": "val", "seed": 1, "rows": null, "settings": {...}}'

Talks to the host in frames on stdin and stdout: one JSON line with "nbytes", then that many bytes. The host starts the
workers and relays to them. Labels never leave this process; replies are hostile until checked. Standard library only.

Checks, each with a pass or a reason:
- shape: the model loads and answers every call with float64 (rows, classes);
- finite: no NaN or infinity;
- normalised: each row's probabilities are at least 0 and sum to 1;
- stateless: in a fresh worker, rows shuffled and regrouped have the probabilities that they had before.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from array import array
from pathlib import Path
from statistics import fmean
from typing import Any, BinaryIO

BATCH_ROWS = 1000
REGROUPED = (701, 1, 400)  # rows of the calls when they are asked for again
TOLERANCE = 1e-5  # other shapes of a product round otherwise, in float32 too
SUM_TOLERANCE = 1e-5
SMALLEST = 1e-15  # a probability of 0 costs 34.5 nats


class CheckFailed(Exception):
    """A check that ends the evaluation: there are no predictions to go on with."""

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

    def ask(self, header: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Write one frame and read the answer."""
        self.send(header, payload)
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the host has gone")
        reply = json.loads(line)
        return reply, self._reader.read(reply["nbytes"])


class Candidate:
    """A fresh worker process that holds the candidate's model."""

    def __init__(self, host: Host, name: str, n_classes: int) -> None:
        self._host, self._name, self._n_classes = host, name, n_classes
        reply, _ = host.ask({"op": "worker", "id": name})
        if reply.get("op") != "ready":
            raise CheckFailed("shape", f"the model could not be loaded: {reply.get('message')}")

    def predict(self, rows: list[array[float]]) -> list[list[float]]:
        """Each row's probabilities, checked for shape, finiteness and sum."""
        width = self._n_classes
        head = {"op": "predict", "shape": [len(rows), len(rows[0])], "dtype": "float32"}
        call = {"op": "call", "id": self._name, "max_reply": 8 * width * len(rows), "head": head}
        reply, payload = self._host.ask(call, b"".join(little(row).tobytes() for row in rows))
        if reply.get("op") != "predictions":
            raise CheckFailed("shape", f"no probabilities: {reply.get('message')}")
        if reply.get("shape") != [len(rows), width] or len(payload) != 8 * width * len(rows):
            raise CheckFailed("shape", f"answers of shape {reply.get('shape')} for {len(rows)} rows, {width} classes")
        values = little(array("d", payload))
        if not all(map(math.isfinite, values)):
            raise CheckFailed("finite", "a probability is not finite")
        found = [values[i : i + width].tolist() for i in range(0, len(values), width)]
        if min(values) < 0.0 or any(abs(sum(row) - 1.0) > SUM_TOLERANCE for row in found):
            raise CheckFailed("normalised", "probabilities below 0, or of a sum other than 1")
        return found

    def predict_in_calls(self, rows: list[array[float]], sizes: tuple[int, ...]) -> list[list[float]]:
        """The same in calls of these sizes, over and over."""
        found: list[list[float]] = []
        call = 0
        while len(found) < len(rows):
            found += self.predict(rows[len(found) : len(found) + sizes[call % len(sizes)]])
            call += 1
        return found

    def stop(self) -> None:
        """End the worker."""
        self._host.ask({"op": "stop", "id": self._name})


def little(values: array[Any]) -> array[Any]:
    """The same numbers in little endian, as frames and files have them; the other way round it is the same."""
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values


def stateless(host: Host, rows: list[array[float]], known: list[list[float]], rng: random.Random) -> dict[str, Any]:
    """The check of that name."""
    order = rng.sample(range(len(rows)), len(rows))
    candidate = Candidate(host, "again", len(known[0]))
    again = candidate.predict_in_calls([rows[i] for i in order], REGROUPED)
    candidate.stop()
    worst = max(abs(a - b) for i, row in zip(order, again, strict=True) for a, b in zip(row, known[i], strict=True))
    reason = "" if worst <= TOLERANCE else "answers depend on the order or grouping of rows, or are noisy"
    return {"name": "stateless", "passed": not reason, "reason": reason, "figure": worst}


def read_table(folder: Path, n_rows: int | None) -> tuple[list[array[float]], list[int]]:
    """Rows and labels of the split; the first rows alone where a number is given."""
    width = json.loads((folder / "meta.json").read_text())["features"]
    values = little(array("f", (folder / "rows.f32").read_bytes()))
    rows = [values[i : i + width] for i in range(0, len(values), width)][:n_rows]
    return rows, list((folder / "labels.u8").read_bytes())[:n_rows]


def evaluate(host: Host, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result frame: metric null where there is none, every check that was made."""
    settings = request["settings"]
    smoke_rows = settings["smoke_rows"] if request["split"] == "smoke" else None
    rows, labels = read_table(folder, request["rows"] or smoke_rows)
    metrics: dict[str, float] = {}
    checks: list[dict[str, Any]] = []
    try:
        candidate = Candidate(host, "score", settings["classes"])
        found = candidate.predict_in_calls(rows, (BATCH_ROWS,))
        candidate.stop()
        loss = fmean(-math.log(max(row[label], SMALLEST)) for row, label in zip(found, labels, strict=True))
        right = fmean(row.index(max(row)) == label for row, label in zip(found, labels, strict=True))
        metrics = {"val_log_loss": loss, "val_accuracy": right, "rows": len(rows)}
        checks = [{"name": name, "passed": True} for name in ("shape", "finite", "normalised")]
        checks.append(stateless(host, rows, found, random.Random(request["seed"])))
    except CheckFailed as failed:
        checks = [check for check in checks if check["name"] != failed.name]
        checks.append({"name": failed.name, "passed": False, "reason": str(failed)})
    return {"op": "result", "metric": metrics.get("val_log_loss"), "metrics": metrics, "checks": checks}


def main() -> None:
    """One evaluation."""
    host = Host(sys.stdin.buffer, sys.stdout.buffer)
    host.send(evaluate(host, json.loads(sys.argv[1]), Path(os.environ["XAR_VAL"])))


if __name__ == "__main__":
    main()
