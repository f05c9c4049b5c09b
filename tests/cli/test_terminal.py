"""What a person sees on a real terminal, and what a file gets."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from xar_agent.cli.live import Live, step_text
from xar_agent.cli.terminal import progress_console

COMMAND = [sys.executable, "-m", "xar_agent"]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


def on_a_terminal(arguments: list[str], folder: Path, **environment: str) -> str:
    """Everything that a command writes to a terminal of its own."""
    ours, its = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    child = subprocess.Popen([*COMMAND, *arguments], stdin=its, stdout=its, stderr=its, cwd=folder, env=env)
    os.close(its)
    seen = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            block = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not block:
            break
        seen += block
    os.close(ours)
    assert child.wait(60) == 0
    return seen.decode()


def test_a_terminal_gets_styles_and_no_color_takes_the_colours_away(tmp_path: Path) -> None:
    assert "\x1b[" in on_a_terminal(["envs", "list"], tmp_path)
    assert not COLOUR.search(on_a_terminal(["envs", "list"], tmp_path, NO_COLOR="1"))


def test_a_narrow_terminal_wraps_within_its_width(tmp_path: Path) -> None:
    seen = on_a_terminal(["envs", "show", "toy"], tmp_path, COLUMNS="50")
    assert max(len(line) for line in ESCAPE.sub("", seen).splitlines()) <= 50


def test_progress_in_a_file_is_plain_lines_that_do_not_flood(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(progress_console()) as live:
        for done in range(1000):
            live.advance("train", "train", done, 1000, f"loss {done}")
        live.line("smoke", "passed \x1b[2J\x07", "green")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["train       0 %  loss 0", "smoke     passed "]


def test_a_step_stands_in_columns_where_there_is_room_and_on_one_line_where_not() -> None:
    wide = step_text("edit_file", "train.py: 1 line", 0.24, width=100)
    assert wide.startswith("edit_file    train.py: 1 line   ")
    assert wide.endswith("  0.2 s")
    assert step_text("edit_file", "train.py: 1 line", 0.24, width=40) == "edit_file train.py: 1 line (0.2 s)"
