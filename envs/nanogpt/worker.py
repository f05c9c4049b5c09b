"""Serve the candidate's model over a pipe: frames of token ids in, frames of logits out.

Runs untrusted code and has no labels. A frame is one JSON line with "nbytes", then that many bytes. The candidate's
code never sees the pipe's descriptors 0 and 1: what it prints goes to stderr.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

CHECKPOINT = Path("out/checkpoint.pt")
MESSAGE_CHARACTERS = 2000  # a frame's header stays far below 64 KiB

Model = Callable[[torch.Tensor], torch.Tensor]


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


def describe(error: BaseException) -> str:
    """One line for the agent."""
    return f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]


def find_checkpoint() -> Path:
    """out/checkpoint.pt, or the only file that begins like it."""
    if CHECKPOINT.exists():
        return CHECKPOINT
    found = sorted(CHECKPOINT.parent.glob("checkpoint*"))
    if len(found) != 1:
        raise FileNotFoundError(f"expected one out/checkpoint*, found {len(found)}")
    return found[0]


def load_model() -> Model:
    """Import the candidate's model.py, standard library and site-packages first, and load its checkpoint."""
    torch.set_num_threads(1)
    sys.path.append(str(Path.cwd()))
    loaded: Model = importlib.import_module("model").load(str(find_checkpoint()))
    return loaded


def forward(f: Model, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Logits for one frame of ids, as float32 whatever the model computes in."""
    idx = torch.from_numpy(np.frombuffer(payload, dtype="<i8").reshape(header["shape"]).copy())
    with torch.no_grad():
        logits = f(idx)
    array = logits.detach().to("cpu", torch.float32).contiguous().numpy()
    return {"op": "logits", "shape": list(array.shape), "dtype": "float32"}, array.tobytes()


def serve(f: Model, reader: BinaryIO, writer: BinaryIO) -> None:
    """Answer frames until stdin ends."""
    while line := reader.readline():
        header = json.loads(line)
        payload = reader.read(header["nbytes"])
        try:
            reply, logits = forward(f, header, payload)
        except Exception as error:  # the candidate's code may raise anything; the evaluator reports it
            traceback.print_exc()  # the host finds the candidate's line in it
            reply, logits = {"op": "error", "message": describe(error)}, b""
        send(writer, reply, logits)


def main() -> None:
    """Load, say so, serve."""
    reader, writer = take_pipe()
    try:
        f = load_model()
    except (Exception, SystemExit) as error:  # same: any failure to load is the candidate's
        traceback.print_exc()
        send(writer, {"op": "error", "message": describe(error)})
        return
    send(writer, {"op": "ready"})
    serve(f, reader, writer)


if __name__ == "__main__":
    main()
