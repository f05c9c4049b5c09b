"""Serve the candidate's model over a pipe: frames of rows in, frames of class probabilities out.

Runs untrusted code and has no labels. A frame is one JSON line with "nbytes", then that many bytes. The candidate's
code never sees the pipe's descriptors 0 and 1: what it prints goes to stderr. What packages print when they are
imported does too, so numpy comes after the pipe has been taken.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

MODULE = "predict"  # of the repository; its load(path) makes the model
CHECKPOINT = "out/checkpoint.pickle"
MESSAGE_CHARACTERS = 2000  # a frame's header stays far below 64 KiB

Model = Callable[[Any], Any]


def take_pipe() -> tuple[BinaryIO, BinaryIO]:
    """Move stdin and stdout to private descriptors; afterwards fd 0 is empty and fd 1 is stderr."""
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return reader, writer


def send(writer: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame."""
    writer.write(json.dumps({**header, "nbytes": len(payload)}).encode() + b"\n")
    writer.write(payload)
    writer.flush()


def load_model() -> Model:
    """Import the candidate's module, behind everything that is installed, and load its checkpoint."""
    if packages := os.environ.get("XAR_PACKAGES"):
        sys.path.append(packages)
    sys.path.append(str(Path.cwd()))
    loaded: Model = importlib.import_module(MODULE).load(CHECKPOINT)
    return loaded


def predict(model: Model, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Probabilities (B, C), float64, for one frame of rows (B, F), float32; both little endian."""
    import numpy as np

    rows = np.frombuffer(payload, dtype="<f4").reshape(header["shape"]).copy()
    found = np.ascontiguousarray(model(rows), dtype="<f8")
    return {"op": "predictions", "shape": list(found.shape), "dtype": "float64"}, found.tobytes()


def serve(model: Model, reader: BinaryIO, writer: BinaryIO) -> None:
    """Answer frames until stdin ends."""
    while line := reader.readline():
        header = json.loads(line)
        payload = reader.read(header["nbytes"])
        try:
            reply, answer = predict(model, header, payload)
        except Exception as error:  # the candidate's code may raise anything; the evaluator reports it
            traceback.print_exc()  # the host finds the candidate's line in it
            reply, answer = {"op": "error", "message": f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]}, b""
        send(writer, reply, answer)


def main() -> None:
    """Load, say so, serve."""
    reader, writer = take_pipe()
    try:
        model = load_model()
    except (Exception, SystemExit) as error:  # same: any failure to load is the candidate's
        traceback.print_exc()
        send(writer, {"op": "error", "message": f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]})
        return
    send(writer, {"op": "ready"})
    serve(model, reader, writer)


if __name__ == "__main__":
    main()
