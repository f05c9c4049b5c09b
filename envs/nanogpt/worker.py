"""Serve the candidate's model over a pipe: frames of token ids in, frames of logits or losses out.

Runs untrusted code; nothing that it says is believed. A frame is one JSON line with "nbytes", then that many bytes. The
candidate's code never sees the pipe's descriptors 0 and 1: what it prints goes to stderr. Where CUDA shows a GPU, the
model is called with ids on it.

- op "forward", ids (B, T): logits (B, T, V); with "last" only those of the last position, (B, 1, V). With "reply"
  "float16" they are log-probabilities, the same distribution in half the bytes.
- op "losses", ids (B, T + 1): the loss of each token after the first, (B, T), for vocabularies whose logits are too
  many for a pipe. The evaluator audits these from prefixes.
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
LEAST_LOG_PROBABILITY = -60_000.0  # float16 ends at 65,504
CHUNK_LOGITS = 1 << 26  # reduced at a time, in float32: 256 MiB

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


def read_ids(header: dict[str, Any], payload: bytes) -> torch.Tensor:
    """The ids of a frame, where the model wants them."""
    ids = torch.from_numpy(np.frombuffer(payload, dtype="<i8").reshape(header["shape"]).copy())
    return ids.to("cuda" if torch.cuda.is_available() else "cpu")


def forward(f: Model, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Logits for one frame of ids, as float32 whatever the model computes in, or as float16 log-probabilities."""
    with torch.no_grad():
        logits = f(read_ids(header, payload)).detach()
        logits = logits[:, -1:].float() if header.get("last") else logits.float()
        if header.get("reply") == "float16":
            logits = torch.log_softmax(logits, -1).clamp_min(LEAST_LOG_PROBABILITY).half()
    array = logits.cpu().contiguous().numpy()
    return {"op": "logits", "shape": list(array.shape), "dtype": str(array.dtype)}, array.tobytes()


def reduce(f: Model, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Losses in nats for one frame of rows: (B, T + 1) ids to (B, T) float32, a few positions at a time."""
    rows = read_ids(header, payload)
    with torch.no_grad():
        logits = f(rows[:, :-1]).flatten(0, 1)  # (B * T, V)
        targets = rows[:, 1:].flatten()
        if len(logits) != len(targets):
            raise ValueError(f"{len(logits)} rows of logits for {len(targets)} tokens")
        step = max(1, CHUNK_LOGITS // logits.shape[-1])
        losses = [
            torch.nn.functional.cross_entropy(logits[i : i + step].float(), targets[i : i + step], reduction="none")
            for i in range(0, len(targets), step)
        ]
    array = torch.cat(losses).view(len(rows), -1).cpu().numpy()
    return {"op": "losses", "shape": list(array.shape), "dtype": "float32"}, array.tobytes()


def serve(f: Model, reader: BinaryIO, writer: BinaryIO) -> None:
    """Answer frames until stdin ends."""
    while line := reader.readline():
        header = json.loads(line)
        payload = reader.read(header["nbytes"])
        try:
            work = reduce if header["op"] == "losses" else forward
            reply, numbers = work(f, header, payload)
        except Exception as error:  # the candidate's code may raise anything; the evaluator reports it
            traceback.print_exc()  # the host finds the candidate's line in it
            reply, numbers = {"op": "error", "message": describe(error)}, b""
        send(writer, reply, numbers)


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
