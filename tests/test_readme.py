"""Everything that README shows is there and runs."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

if not README.is_file():
    pytest.skip("needs the repository", allow_module_level=True)

TEXT = README.read_text()
SHOWN = re.findall(r"^\$ (.+)$", TEXT, flags=re.MULTILINE)
SCRIPT = ROOT / "benchmarks" / "accept" / "toy_better.json"
QUICK = {
    # What takes minutes runs here on the toy environment with a scripted model; benchmarks/demo runs it as it stands.
    "implement": ["--env", "toy", "--model", f"scripted/{SCRIPT}"],
    "evaluate": [],
    "envs": [],
}


def quick(words: list[str], patch: Path, run: str) -> list[str]:
    """The same command, small enough for a test: toy in place of nanogpt, two seeds, a real diff, a real run."""
    swaps = {"nanogpt": "toy", "my.diff": str(patch), "runs/RUN": f"runs/{run}", "24": "2", "3": "2"}
    return [swaps.get(word, word) for word in words] + QUICK.get(words[0], [])


def commands() -> list[str]:
    """Each ``xar-agent`` line of README."""
    return [line.removeprefix("xar-agent ") for line in SHOWN if line.startswith("xar-agent ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a diff of the toy environment and one finished run called ``shown``."""
    folder = tmp_path_factory.mktemp("readme")
    before = (ROOT / "envs" / "toy" / "repo" / "train.py").read_text()
    after = before.replace("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    (folder / "my.diff").write_text("".join(difflib.unified_diff(*lines, "a/train.py", "b/train.py")))
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def xar(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The real command in that folder."""
    environment = {**os.environ, "XAR_RUNS": str(folder / "runs"), "XAR_CACHE": str(folder / "cache")}
    argv = [sys.executable, "-m", "xar_agent", *words]
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False)


@pytest.mark.bwrap
def test_every_command_that_readme_shows_runs(workplace: Path) -> None:
    first = xar([*shlex.split('implement "x" --run shown'), *QUICK["implement"]], workplace)
    assert first.returncode == 0, first.stderr
    assert len(commands()) >= 8
    for line in commands():
        done = xar(quick(shlex.split(line), workplace / "my.diff", "shown"), workplace)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line


@pytest.mark.parametrize("target", [line.removeprefix("make ") for line in SHOWN if line.startswith("make ")])
def test_every_make_target_that_readme_shows_is_there(target: str) -> None:
    done = subprocess.run(["make", "-n", target], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_the_demo_runs_the_idea_that_readme_shows() -> None:
    idea = re.search(r"^IDEA \?= (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert idea is not None
    assert f'xar-agent implement "{idea.group(1)}"' in SHOWN


def test_every_file_that_readme_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_placeholder_is_left() -> None:
    assert re.findall(r"@[A-Z0-9_]+@", TEXT) == []
