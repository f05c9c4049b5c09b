"""Frames: everything that a hostile program can do to a pipe ends in an error by the deadline."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xar_agent.errors import Interrupted
from xar_agent.jobs.frames import Frame, FrameError, FramePipe, parse_header
from xar_agent.sandbox import SandboxSpec, open_sandbox
from xar_agent.sandbox.protocol import Process

ECHO = """
import json, sys
while line := sys.stdin.buffer.readline():
    header = json.loads(line)
    data = sys.stdin.buffer.read(header["nbytes"])
    sys.stdout.buffer.write(json.dumps({"op": "echo", "nbytes": len(data)}).encode() + b"\\n" + data)
    sys.stdout.buffer.flush()
"""

Open = Callable[..., tuple[FramePipe, Process]]


@pytest.fixture
def talk_to(tmp_path: Path) -> Iterator[Open]:
    """``talk_to(source)`` -> the pipe to a Python program, and its process."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with open_sandbox("process", SandboxSpec(workspace)) as sandbox:

        def start(source: str, cancel: threading.Event | None = None) -> tuple[FramePipe, Process]:
            process = sandbox.spawn([sys.executable, "-c", source], stderr_path=tmp_path / "err")
            return FramePipe(process, cancel), process

        yield start


def test_frames_of_any_size_come_back(talk_to: Open) -> None:
    pipe, _ = talk_to(ECHO)
    for size in (0, 1, 70_000, 3_000_000):
        payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        pipe.send(Frame({"op": "call"}, payload), timeout_s=20)
        frame = pipe.receive(timeout_s=20, max_payload=size)
        assert (frame.op, frame.payload) == ("echo", payload)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import time; time.sleep(60)", "did not answer in time"),
        ("pass", "has ended"),
        ("print('hello')", "not JSON"),
        ("print('[1]')", "sensible nbytes"),
        ("print('{}')", "sensible nbytes"),
        ("print('{\"nbytes\": -1}')", "sensible nbytes"),
        ("print('{\"nbytes\": true}')", "sensible nbytes"),
        ("print('{\"nbytes\": 99999999999}')", "where 100 are allowed"),
        ("print('[' * 60000)", "not JSON"),
        ("import sys, time; sys.stdout.write('x' * 10**6); time.sleep(60)", "too long"),
        ("print('{\"nbytes\": 50}', flush=True); print('short')", "has ended"),
        ("print('{\"nbytes\": 50}', flush=True)\nimport time; time.sleep(60)", "did not answer in time"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "too long"),
    ],
)
def test_a_program_that_does_not_speak_in_frames_is_an_error(talk_to: Open, source: str, reason: str) -> None:
    pipe, _ = talk_to(source)
    begun = time.monotonic()
    with pytest.raises(FrameError, match=reason):
        pipe.receive(timeout_s=2, max_payload=100)
    assert time.monotonic() - begun < 6


def test_a_program_that_does_not_read_is_an_error(talk_to: Open) -> None:
    pipe, _ = talk_to("import time; time.sleep(60)")
    with pytest.raises(FrameError, match="did not read in time"):
        pipe.send(Frame({"op": "call"}, b"x" * 5_000_000), timeout_s=1)


def test_a_program_that_has_gone_is_an_error_when_written_to(talk_to: Open) -> None:
    pipe, process = talk_to("pass")
    process.wait(20)
    with pytest.raises(FrameError, match="has ended"):
        pipe.send(Frame({"op": "call"}, b"x" * 1_000_000), timeout_s=5)


def test_a_slow_drip_does_not_stretch_the_deadline(talk_to: Open) -> None:
    pipe, _ = talk_to("import os, time\nwhile True: os.write(1, b'x'); time.sleep(0.05)")
    begun = time.monotonic()
    with pytest.raises(FrameError, match="in time"):
        pipe.receive(timeout_s=1, max_payload=100)
    assert time.monotonic() - begun < 4


def test_a_cancellation_ends_the_wait(talk_to: Open) -> None:
    cancel = threading.Event()
    pipe, _ = talk_to("import time; time.sleep(60)", cancel)
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(Interrupted):
        pipe.receive(timeout_s=60, max_payload=100)


def test_half_a_character_in_a_header_becomes_a_question_mark() -> None:
    header = parse_header(rb'{"nbytes": 0, "message": "\ud800", "\udfff": [{"a": "\ud800b"}]}')
    assert header == {"nbytes": 0, "message": "?", "?": [{"a": "?b"}]}
