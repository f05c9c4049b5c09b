"""Failures get the class, the reason and the place that a person would give them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xar_agent.envs.spec import load_env
from xar_agent.jobs.classify import LOG_BYTES, classify
from xar_agent.sandbox.protocol import ExecResult

TOY = load_env("toy")
DONE = ExecResult(
    exit_code=1,
    head="",
    tail="",
    n_bytes=0,
    timed_out=False,
    oom=False,
    duration_s=1.0,
    cpu_s=1.0,
    survivors_killed=0,
)


def crash(tmp_path: Path, source: str) -> tuple[str, str]:
    """What Python really prints when train.py in a folder called workspace crashes, and that folder."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "model.py").write_text("def f(x):\n    return g(x)\n\ndef g(x):\n    raise x\n")
    (workspace / "train.py").write_text(source)
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys, runpy; sys.path.append('.'); runpy.run_path(sys.argv[1], run_name='__main__')",
        ]
        + [str(workspace / "train.py")],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr, str(workspace)


@pytest.mark.parametrize(
    ("source", "kind", "line"),
    [
        ("x = 1\nif x\n    pass\n", "SYNTAX", 2),
        ("def f():\nreturn 1\n", "SYNTAX", 2),
        ("import nosuchmodule\n", "IMPORT", 1),
        ("from json import nosuchname\n", "IMPORT", 1),
        ("raise RuntimeError('mat1 and mat2 shapes cannot be multiplied (4x8 and 4x8)')\n", "SHAPE", 1),
        (
            "raise RuntimeError('The size of tensor a (3) must match the size of tensor b (4) at dimension 1')\n",
            "SHAPE",
            1,
        ),
        ("raise RuntimeError(\"shape '[2, 3]' is invalid for input of size 5\")\n", "SHAPE", 1),
        ("list(zip([1], [1, 2], strict=True))\n", "SHAPE", 1),
        ("raise MemoryError\n", "OOM", 1),
        ('raise RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory")\n', "OOM", 1),
        ("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory')\n", "OOM", 2),
        ("raise FloatingPointError('loss is nan at step 3')\n", "NAN", 1),
        ("raise ValueError('loss became NaN')\n", "NAN", 1),
        ("raise ValueError('token stream: length may be 79 at most')\n", "CONFIG", 1),
        ("import os\n\nos.environ['NO_SUCH_SETTING']\n", "CODE", 3),
        ("def f():\n    return f.nosuch\nf()\n", "CODE", 2),
        ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise RuntimeError('second')\n", "CODE", 4),
    ],
)
def test_a_crash_has_its_class_and_line(tmp_path: Path, source: str, kind: str, line: int) -> None:
    output, workspace = crash(tmp_path, source)
    failure = classify(output, DONE, TOY, workspace=workspace)
    assert (failure.kind, failure.file, failure.line) == (kind, "train.py", line), output


def test_the_innermost_frame_in_the_repository_counts(tmp_path: Path) -> None:
    output, workspace = crash(tmp_path, "from model import f\nf(ValueError('deep'))\n")
    failure = classify(output, DONE, TOY, workspace=workspace)
    assert (failure.file, failure.line, failure.reason) == ("model.py", 5, "ValueError: deep")


def test_a_frame_in_the_standard_library_is_not_blamed(tmp_path: Path) -> None:
    output, workspace = crash(tmp_path, "import json\n\njson.loads('{')\n")
    failure = classify(output, DONE, TOY, workspace=workspace)
    assert (failure.file, failure.line) == ("train.py", 3)


def test_how_it_ended_outranks_what_it_said(tmp_path: Path) -> None:
    output, workspace = crash(tmp_path, "raise KeyError('x')\n")
    ends = {
        "OOM": replace(DONE, oom=True, exit_code=137),
        "TIMEOUT": replace(DONE, timed_out=True, stopped_by="wall"),
        "CONFIG": replace(DONE, stopped_by="disk"),
    }
    assert {kind: str(classify(output, end, TOY, workspace=workspace).kind) for kind, end in ends.items()} == {
        kind: kind for kind in ends
    }
    cpu = classify(output, replace(DONE, timed_out=True, stopped_by="cpu", cpu_s=99.4), TOY, workspace=workspace)
    assert (cpu.kind, "99 CPU seconds" in cpu.reason) == ("TIMEOUT", True)


def test_without_a_traceback_the_last_line_and_the_exit_code_are_the_reason() -> None:
    failure = classify("one\nsome tool: failed\n\n", replace(DONE, exit_code=3), TOY)
    assert (failure.kind, failure.reason, failure.file) == ("CODE", "exit code 3: some tool: failed", None)
    assert classify("", replace(DONE, exit_code=139), TOY).reason == "ended by signal 11"


def test_the_log_is_bounded_and_without_secrets(planted_key: str) -> None:
    failure = classify(f"{'é' * 20_000}\n{planted_key}\n", DONE, TOY)
    assert len(failure.log.encode()) <= LOG_BYTES
    assert planted_key not in failure.log + failure.reason


def test_output_of_any_kind_is_survived() -> None:
    for output in (
        'File "',
        'File "a", line 9' * 5000,
        "\x00\x1b[2J" * 100,
        '  File "/workspace/../etc/x.py", line 1\nE: x',
    ):
        assert classify(output, DONE, TOY).reason


TORCHRUN = """\
[W1123 16:23:13.502015304 socket.cpp:207] [c10d] The hostname of the client socket cannot be retrieved. err=-3
Traceback (most recent call last):
  File "/xar/launch.py", line 38, in <module>
    runpy.run_path(sys.argv[0], run_name="__main__")
  File "/workspace/train.py", line 8, in <module>
    x = a @ b
RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)
[rank 0] failed afterwards: RuntimeError: Connection closed by peer
"""
REPORT = """\
W1123 16:23:16.893000 3 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 7 closing signal SIGTERM
E1123 16:23:16.927000 3 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) local_rank: 1
Traceback (most recent call last):
  File "/lib/torch/distributed/run.py", line 1032, in <module>
    main()
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
  exitcode  : {code} (pid: 8)
"""


@pytest.mark.parametrize(
    ("said", "code", "kind", "reason", "line"),
    [
        (TORCHRUN, 1, "SHAPE", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)", 8),
        (TORCHRUN, -9, "CODE", "ended by signal 9", None),
        ("step 1\n", -11, "CODE", "ended by signal 11", None),
        ("step 1\nno such setting\n", 3, "CODE", "exit code 3: no such setting", None),
    ],
)
def test_of_several_copies_the_first_failure_counts_and_not_torchruns_own(
    said: str, code: int, kind: str, reason: str, line: int | None
) -> None:
    failure = classify(said + REPORT.format(code=code), DONE, TOY)
    assert (failure.kind, failure.reason, failure.line) == (kind, reason, line)
    assert "ChildFailedError" not in failure.log
