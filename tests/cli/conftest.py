"""The real command line as a child process, in this test's own home, cache and runs folder."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from xar_agent.envs.spec import load_env

COMMAND = (sys.executable, "-m", "xar_agent")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value."""
        return json.loads(self.out)

    @property
    def error_lines(self) -> list[str]:
        """stderr without blank lines."""
        return [line for line in self.err.splitlines() if line.strip()]


class Xar:
    """Runs ``xar-agent``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        prefix: Sequence[str] = (),
        timeout_s: float = 120,
    ) -> Ended:
        """One command to its end."""
        done = subprocess.run(
            [*prefix, *COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            input=stdin,
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            timeout=timeout_s,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """One command under way, with its output in pipes."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )


@pytest.fixture
def xar(tmp_path: Path, isolated: Path) -> Xar:
    """``xar(*arguments)`` in an empty working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    return Xar(folder)


JSON_KEYS = {
    "run_dir", "idea_id", "outcome", "exit_reason", "patch_path", "trajectory_path", "smoke", "job", "evaluation",
    "baseline", "verdict", "fidelity", "steps", "tokens", "cost_usd", "model", "sandbox", "duration_s",
    "quarantined", "flags", "card_path",
}  # fmt: skip
"""What ``implement --json`` and ``evaluate --json`` print."""

TOY_TRAIN = Path(__file__).resolve().parents[2] / "envs" / "toy" / "repo" / "train.py"


def toy_patch(old: str, new: str) -> str:
    """A diff of the toy environment's train.py that replaces one text by another."""
    before = TOY_TRAIN.read_text()
    assert before.count(old) == 1
    after = before.replace(old, new)
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(lines[0], lines[1], "a/train.py", "b/train.py"))


@pytest.fixture
def make_patch(tmp_path: Path) -> Callable[[str, str], Path]:
    """``make_patch(old, new)``: a file with a diff of the toy environment's train.py."""

    def make(old: str, new: str) -> Path:
        path = tmp_path / "my.patch"
        path.write_text(toy_patch(old, new))
        return path

    return make


@pytest.fixture
def json_keys() -> set[str]:
    """What ``implement --json`` and ``evaluate --json`` print."""
    return set(JSON_KEYS)


@pytest.fixture
def toy_without_baseline(tmp_path: Path) -> Path:
    """A copy of the toy environment under another name, never measured."""
    folder = tmp_path / "bare"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    (folder / "env.toml").write_text(text.replace('name = "toy"', 'name = "bare"'))
    return folder
