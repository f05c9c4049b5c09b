"""Score a candidate on held-out rows: mean squared error, and whether each prediction comes from its own row alone.

    python evaluator.py '{"split": "val", "seed": 1, "rows": null, "settings": {...}}'

Talks to the host in frames on stdin and stdout: one JSON line with "nbytes", then that many bytes. The host starts the
workers and relays to them. Targets never leave this process; replies are hostile until checked. Standard library only.

Checks, each with a pass or a reason (replace, and say the same in the contract of env.toml):
- shape: the model loads and answers every call with one float64 a row;
- finite: no NaN or infinity;
- stateless: in a fresh worker, rows shuffled and regrouped have the predictions that they had before.
"""

import csv
import json
import os
import random
import sys
from array import array
from pathlib import Path
from statistics import fmean
from typing import Any, BinaryIO

BATCH_ROWS = 256
REGROUPED = (7, 101, 1, 40)  # rows of the calls when they are asked for again
LARGEST = 1e100  # its square is still a number: an evaluator that fails is the house's fault
TOLERANCE = 1e-6  # relative: other shapes of a product may round otherwise


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

    def __init__(self, host: Host, name: str) -> None:
        self._host, self._name = host, name
        reply, _ = host.ask({"op": "worker", "id": name})
        if reply.get("op") != "ready":
            raise CheckFailed("shape", f"the model could not be loaded: {reply.get('message')}")

    def predict(self, rows: list[list[float]]) -> list[float]:
        """One prediction a row, checked for shape and finiteness."""
        head = {"op": "predict", "shape": [len(rows), len(rows[0])], "dtype": "float64"}
        call = {"op": "call", "id": self._name, "max_reply": 8 * len(rows), "head": head}
        reply, payload = self._host.ask(call, array("d", [x for row in rows for x in row]).tobytes())
        if reply.get("op") != "predictions":
            raise CheckFailed("shape", f"no predictions: {reply.get('message')}")
        if reply.get("shape") != [len(rows)] or len(payload) != 8 * len(rows):
            raise CheckFailed("shape", f"predictions of shape {reply.get('shape')} for {len(rows)} rows")
        predictions = array("d", payload).tolist()
        if not all(abs(x) < LARGEST for x in predictions):  # also false for NaN
            raise CheckFailed("finite", f"a prediction is not finite, or beyond {LARGEST:g}")
        return predictions

    def predict_in_calls(self, rows: list[list[float]], sizes: tuple[int, ...]) -> list[float]:
        """The same in calls of these sizes, over and over."""
        found: list[float] = []
        call = 0
        while len(found) < len(rows):
            found += self.predict(rows[len(found) : len(found) + sizes[call % len(sizes)]])
            call += 1
        return found

    def stop(self) -> None:
        """End the worker."""
        self._host.ask({"op": "stop", "id": self._name})


def stateless(host: Host, rows: list[list[float]], known: list[float], rng: random.Random) -> dict[str, Any]:
    """The check of that name."""
    order = rng.sample(range(len(rows)), len(rows))
    candidate = Candidate(host, "again")
    again = candidate.predict_in_calls([rows[i] for i in order], REGROUPED)
    candidate.stop()
    worst = max(abs(a - known[i]) / (1.0 + abs(known[i])) for i, a in zip(order, again, strict=True))
    reason = "" if worst <= TOLERANCE else "predictions depend on the order or grouping of rows, or are noisy"
    return {"name": "stateless", "passed": not reason, "reason": reason, "figure": worst}


def read_rows(folder: Path, n_rows: int | None) -> tuple[list[list[float]], list[float]]:
    """Inputs and targets of the split; the first rows alone where a number is given."""
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = [[float(x) for x in values] for values in csv.reader(file)][:n_rows]
    return [row[:-1] for row in rows], [row[-1] for row in rows]


def evaluate(host: Host, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result frame: metric null where there is none, every check that was made."""
    smoke_rows = request["settings"]["smoke_rows"] if request["split"] == "smoke" else None
    rows, targets = read_rows(folder, request["rows"] or smoke_rows)
    metrics: dict[str, float] = {}
    checks: list[dict[str, Any]] = []
    try:
        candidate = Candidate(host, "score")
        predictions = candidate.predict_in_calls(rows, (BATCH_ROWS,))
        candidate.stop()
        error = fmean((p - t) ** 2 for p, t in zip(predictions, targets, strict=True))
        metrics = {"val_mse": error, "rows": len(rows)}
        checks = [{"name": name, "passed": True} for name in ("shape", "finite")]
        checks.append(stateless(host, rows, predictions, random.Random(request["seed"])))
    except CheckFailed as failed:
        checks = [check for check in checks if check["name"] != failed.name]
        checks.append({"name": failed.name, "passed": False, "reason": str(failed)})
    return {"op": "result", "metric": metrics.get("val_mse"), "metrics": metrics, "checks": checks}


def main() -> None:
    """One evaluation."""
    host = Host(sys.stdin.buffer, sys.stdout.buffer)
    host.send(evaluate(host, json.loads(sys.argv[1]), Path(os.environ["XAR_VAL"])))


if __name__ == "__main__":
    main()
