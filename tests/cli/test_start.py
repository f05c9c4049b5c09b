"""The commands that only look start at once, and import nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "xar_agent")
MAX_CPU_S = 0.5
TRIES = 3
"""The best one counts: a busy machine makes the same instructions take more CPU time."""
HEAVY = {"litellm", "smolagents", "docker", "torch", "numpy", "openai", "tree_sitter", "jinja2"}
LIGHT_COMMANDS = (["--help"], ["runs", "list"], ["replay", "--help"], ["implement", "--help"])


def cpu_s(arguments: list[str]) -> float:
    child = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_it_starts_in_half_a_second_of_cpu_time(arguments: list[str]) -> None:
    cpu_s(arguments)  # compiles the modules once
    assert min(cpu_s(arguments) for _ in range(TRIES)) < MAX_CPU_S


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_it_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from xar_agent.cli.main import run; code = run(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())


def test_looking_at_an_episode_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "trajectory.jsonl").write_text(
        '{"v":1,"seq":0,"id":"e0","parent_id":null,"ts":"","run_id":"r","type":"run_start","data":{}}\n'
    )
    test_it_imports_nothing_heavy(["replay", str(tmp_path)])
