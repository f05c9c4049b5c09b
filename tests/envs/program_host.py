"""A small host for the environments' programs: serves the token stream, starts workers, relays the evaluator's frames.

Plain subprocesses, no sandbox: these tests are about the programs. The product's host is in jobs/.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ENVS = Path(__file__).parents[2] / "envs"
LAUNCH = "import runpy, sys; sys.path.append('.'); runpy.run_path('train.py', run_name='__main__')"


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training process left behind."""

    exit_code: int
    stderr: str
    workspace: Path

    @property
    def curve(self) -> list[dict[str, float]]:
        """The lines of out/metrics.jsonl."""
        return [json.loads(line) for line in (self.workspace / "out" / "metrics.jsonl").read_text().splitlines()]


def make_workspace(env: str, folder: Path, edits: dict[str, tuple[str, str]] | None = None) -> Path:
    """A copy of the environment's repository, with ``edits``: file -> (old text, new text)."""
    shutil.copytree(ENVS / env / "repo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in (edits or {}).items():
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    return folder


def serve_tokens(listener: socket.socket, tokens: array[int], budget: int, seed: int) -> None:
    """Answer one connection by the stream's protocol; rows come from lanes in random order and never overlap."""
    connection, _ = listener.accept()
    left, lane = budget, 512
    with connection, connection.makefile("rb") as requests:
        starts = list(range(0, len(tokens) - lane, lane))
        random.Random(seed).shuffle(starts)
        for line in requests:
            asked = json.loads(line)
            length = asked["length"]
            if not 0 < length < lane:
                connection.sendall(json.dumps({"error": f"length {length} is not possible"}).encode() + b"\n")
                continue
            chosen = starts[: min(asked["rows"], left // length)]
            left -= len(chosen) * length
            payload = b"".join(tokens[start : start + length + 1].tobytes() for start in chosen)
            rest = [start + length for start in chosen if start % lane + 2 * length < lane]
            starts = starts[len(chosen) :] + rest
            header = {"rows": len(chosen), "length": length, "itemsize": 2, "left": left}
            connection.sendall(json.dumps(header).encode() + b"\n" + payload)


def train(workspace: Path, train_bin: Path, *, budget: int, seed: int) -> Trained:
    """Run train.py once as the product does: standard library first, then the repository."""
    tokens = array("H", train_bin.read_bytes())
    with socket.socket(socket.AF_UNIX) as listener:
        path = workspace / "stream.sock"
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve_tokens, args=(listener, tokens, budget, seed))
        thread.start()
        environment = {
            "PATH": os.environ["PATH"],
            "XAR_DATA": str(path),
            "XAR_BUDGET": str(budget),
            "XAR_SEED": str(seed),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-B", "-P", "-W", "error", "-c", LAUNCH]
        done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
        if thread.is_alive():  # it never connected: let the server go
            with socket.socket(socket.AF_UNIX) as nobody:
                nobody.connect(str(path))
        thread.join()
    return Trained(done.returncode, done.stderr, workspace)


def read_frame(reader: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """One frame; a closed pipe is an error frame, as the product's host answers it."""
    line = reader.readline()
    if not line:
        return {"op": "error", "message": "the worker has died", "nbytes": 0}, b""
    header = json.loads(line)
    return header, reader.read(header["nbytes"])


def write_frame(writer: IO[bytes], header: dict[str, Any], payload: bytes = b"") -> None:
    """One frame."""
    writer.write(json.dumps(header).encode() + b"\n" + payload)
    writer.flush()


class Worker:
    """One worker process of the candidate."""

    def __init__(self, env: str, workspace: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-P", str(ENVS / env / "worker.py")],
            cwd=workspace,
            env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def close(self) -> None:
        """End of input: the worker leaves."""
        self.stdin.close()
        self.process.wait(timeout=30)
        self.stdout.close()


def close_all(workers: dict[str, Worker]) -> None:
    """End the workers that the evaluator has not stopped."""
    for worker in workers.values():
        worker.close()


def answer(
    header: dict[str, Any], payload: bytes, env: str, workspace: Path, workers: dict[str, Worker]
) -> tuple[Any, bytes]:
    """What the host says to one frame of the evaluator."""
    name = header["id"]
    if header["op"] == "worker":
        workers[name] = Worker(env, workspace)
        return read_frame(workers[name].stdout)
    if header["op"] == "call":
        write_frame(workers[name].stdin, header["head"], payload)
        reply, data = read_frame(workers[name].stdout)
        if len(data) > header["max_reply"]:
            return {"op": "error", "message": "the reply was too large", "nbytes": 0}, b""
        return reply, data
    workers.pop(name).close()
    return {"op": "ok", "nbytes": 0}, b""


def evaluate(env: str, workspace: Path, val: Path, settings: dict[str, Any], **request: Any) -> dict[str, Any]:
    """Run the evaluator against real workers; returns its result frame."""
    asked = {"split": "val", "seed": 1, "rows": None, "settings": settings, **request}
    workers: dict[str, Worker] = {}
    evaluator = subprocess.Popen(
        [sys.executable, "-B", "-P", str(ENVS / env / "evaluator.py"), json.dumps(asked)],
        env={"PATH": os.environ["PATH"], "XAR_VAL": str(val), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with evaluator, ExitStack() as cleanup:
        assert evaluator.stdin is not None
        assert evaluator.stdout is not None
        cleanup.callback(close_all, workers)
        while True:
            header, payload = read_frame(evaluator.stdout)
            if header["op"] in ("result", "error"):
                return header
            write_frame(evaluator.stdin, *answer(header, payload, env, workspace, workers))


def failed_checks(result: dict[str, Any]) -> set[str]:
    """Names of the checks that did not pass."""
    return {check["name"] for check in result["checks"] if not check["passed"]}
