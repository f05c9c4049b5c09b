"""The commands that only look import nothing heavy; ``make accept-1`` measures how long they take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"litellm", "smolagents", "docker", "torch", "numpy", "openai", "tree_sitter", "jinja2"}
LIGHT_COMMANDS = (["--help"], ["runs", "list"], ["replay", "--help"], ["implement", "--help"], ["doctor", "--help"])


def heavy_imports(arguments: list[str]) -> set[str]:
    """The heavy packages that this command had imported when it ended."""
    program = (
        "import sys; from xar_agent.cli.main import run; code = run(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_it_imports_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_imports(arguments) == set()


def test_looking_at_an_episode_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "trajectory.jsonl").write_text(
        '{"v":1,"seq":0,"id":"e0","parent_id":null,"ts":"","run_id":"r","type":"run_start","data":{}}\n'
    )
    assert heavy_imports(["replay", str(tmp_path)]) == set()
