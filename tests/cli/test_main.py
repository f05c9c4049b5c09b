"""How any ending is told."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from xar_agent.cli.main import PIPE_CLOSED_EXIT, Report, from_os
from xar_agent.cli.terminal import one_line
from xar_agent.errors import Interrupted, ModelUnavailable, StoreError, UnknownName


def test_what_nobody_foresaw_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str], planted_key: str) -> None:
    code = Report(as_json=True, debug=False).unexpected(ZeroDivisionError(f"no\nluck \x1b[31m{planted_key}"))
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert code == 1
    assert told["error"] == "unexpected ZeroDivisionError: no luck [31m[redacted]"
    assert "--debug" in told["hint"]
    assert err == f"error: {told['error']}; {told['hint']}\n"


def test_with_debug_the_traceback_is_there_without_secrets(
    capsys: pytest.CaptureFixture[str], planted_key: str
) -> None:
    try:
        raise ZeroDivisionError(f"here {planted_key}")
    except ZeroDivisionError as error:
        Report(as_json=False, debug=True).unexpected(error)
    err = capsys.readouterr().err
    assert "test_main.py" in err
    assert planted_key not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(UnknownName("x"), 2), (ModelUnavailable("x"), 3), (StoreError("x"), 1), (Interrupted("x"), 130)],
    ids=["wrong input", "missing service", "tried in vain", "interrupted"],
)
def test_each_kind_of_error_has_its_exit_code(error: UnknownName, code: int) -> None:
    assert Report(as_json=False, debug=False).ended(error) == code


def test_a_full_disk_is_told_as_one_and_an_unknown_error_is_not() -> None:
    told = from_os(OSError(errno.ENOSPC, "No space left on device", "/runs/x"))
    assert told is not None
    assert "/runs/x" in told.message
    assert "--runs-dir" in told.hint
    assert from_os(OSError(errno.ECHILD, "No child processes")) is None


def test_one_line_has_no_control_characters() -> None:
    assert one_line("a\nb\t\x07c\x1b[2J") == "a b c[2J"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "xar_agent", "envs", "show", "toy"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert done.returncode == PIPE_CLOSED_EXIT
    assert done.stderr == ""
