"""Everything that README and docs/search.md show is there and runs."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from xar_agent.agent.sources import MAX_TOKENS
from xar_agent.cli.batch_plan import SAME, read_ideas
from xar_agent.config import Settings
from xar_agent.envs.knobs import read_knobs
from xar_agent.envs.spec import load_env
from xar_agent.population.budget import WARN_AT
from xar_agent.population.clock import BEAT_S, MOST_OF_LIMIT, STOP_S
from xar_agent.population.novelty import NEAR
from xar_agent.population.policies import EXPLOIT_SHARE_STEP, FIRST_EXPLOIT_SHARE, LAST_EXPLOIT_SHARE, POLICIES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

if not README.is_file():
    pytest.skip("needs the repository", allow_module_level=True)

TEXT = README.read_text()
SEARCH = ROOT / "docs" / "search.md"
PAGES = [README, SEARCH]
SHOWN = re.findall(r"^\$ (.+)$", TEXT, flags=re.MULTILINE)
SCRIPT = ROOT / "benchmarks" / "accept" / "toy_better.json"
SEARCH_SCRIPT = ROOT / "tests" / "toy_evolve.json"
QUICK = {
    # What takes minutes runs here on the toy environment with a scripted model; benchmarks/demo runs it as it stands.
    "implement": ["--env", "toy", "--model", f"scripted/{SCRIPT}"],
    "doctor": ["--env", "toy", "--model", f"scripted/{SCRIPT}"],
}
ROW = re.compile(r"^ *(\d+) +([0-9a-f]{10}) +(\d+ \w+) +(\d+) +([\d.]+) ", flags=re.MULTILINE)
"""A candidate in a report: rank, id, epoch and origin, seeds, score. Equal everywhere; an interval is a machine's."""

EXCERPT = ROW.findall(TEXT)


def quick(words: list[str], patch: Path, run: str) -> list[str]:
    """The same command, small enough for a test: toy in place of nanogpt, few seeds and ideas, a real diff and run."""
    swaps = {"nanogpt": "toy", "my.diff": str(patch), "runs/RUN": f"runs/{run}", "24": "2", "3": "2"}
    swaps |= {"12": "1", "20": "2", "5": "2", "openai/gpt-5-mini": f"scripted/{SEARCH_SCRIPT}"}
    words = [word.replace("runs/RUN/", f"runs/{run}/") for word in words]
    return [swaps.get(word, word) for word in words] + QUICK.get(words[0], [])


def commands(page: Path) -> list[str]:
    """Each ``xar-agent`` line of a page."""
    return re.findall(r"^\$ xar-agent (.+)$", page.read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a diff of the toy environment, a file of ideas, and the recorded examples."""
    folder = tmp_path_factory.mktemp("readme")
    before = (ROOT / "envs" / "toy" / "repo" / "train.py").read_text()
    after = before.replace("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    (folder / "my.diff").write_text("".join(difflib.unified_diff(*lines, "a/train.py", "b/train.py")))
    (folder / "my-ideas.txt").write_text("Raise the learning rate to 3.\n")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def xar(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The real command in that folder."""
    environment = {**os.environ, "XAR_RUNS": str(folder / "runs"), "XAR_CACHE": str(folder / "cache")}
    argv = [sys.executable, "-m", "xar_agent", *words]
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False)


def card_in(folder: Path, word: str) -> str:
    """A card's path with the idea that the shown run has."""
    if not word.endswith("/impl/IDEA/card.json"):
        return word
    (card,) = (folder / word).parent.parent.glob("*/card.json")
    return str(card)


@pytest.mark.bwrap
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_runs(page: Path, workplace: Path) -> None:
    first = xar([*shlex.split(f'implement "x" --run shown-{page.stem}'), *QUICK["implement"]], workplace)
    assert first.returncode == 0, first.stderr
    assert len(commands(page)) >= 8
    for line in commands(page):
        words = quick(shlex.split(line), workplace / "my.diff", f"shown-{page.stem}")
        done = xar([card_in(workplace, word) for word in words], workplace)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line
        if "--run search" in line:
            assert ROW.findall(done.stdout)[: len(EXCERPT)] == EXCERPT, "README shows what it prints"


def test_readme_shows_what_a_search_prints() -> None:
    assert len(EXCERPT) >= 3
    assert sum("--run search" in line for line in commands(README)) == 1


@pytest.mark.parametrize("target", [line.removeprefix("make ") for line in SHOWN if line.startswith("make ")])
def test_every_make_target_that_readme_shows_is_there(target: str) -> None:
    done = subprocess.run(["make", "-n", target], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_the_demo_runs_the_idea_that_readme_shows() -> None:
    idea = re.search(r"^IDEA \?= (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert idea is not None
    assert f'xar-agent implement "{idea.group(1)}"' in SHOWN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_is_there(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_environments_counts_their_knobs() -> None:
    rows = re.findall(r"^\| `(\w+)`.*\| (\d+) \|$", TEXT, flags=re.MULTILINE)
    assert {name for name, _ in rows} == {"nanogpt", "toy"}
    assert [(name, len(read_knobs(load_env(name)))) for name, _ in rows] == [(name, int(n)) for name, n in rows]


def test_the_page_on_search_has_every_policy_with_the_default_marked() -> None:
    rows = re.findall(r"^\| `([a-z-]+)`( \(default\))? .*\| (model|chance) \|$", SEARCH.read_text(), flags=re.MULTILINE)
    whose = {"model": "model", "chance": "knobs"}
    assert {name: whose[ideas] for name, _, ideas in rows} == {p.name: p.ideas_from for p in POLICIES.values()}
    assert [name for name, default, _ in rows if default] == [Settings().policy]


def test_the_figures_on_search_are_those_of_the_program() -> None:
    text = SEARCH.read_text()
    assert f"(Jaccard {NEAR} or more)" in text
    assert f"({MAX_TOKENS:,} tokens" in text
    assert f"min({FIRST_EXPLOIT_SHARE} + {EXPLOIT_SHARE_STEP} * floor(epoch / 2), {LAST_EXPLOIT_SHARE})" in text
    assert (BEAT_S, STOP_S, MOST_OF_LIMIT, WARN_AT) == (2, 4, 1 / 2, (1 / 2, 4 / 5)), "said in words there"


def test_the_file_of_ideas_on_the_page_can_be_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", SEARCH.read_text(), flags=re.DOTALL)
    path = tmp_path / "ideas.json"
    path.write_text(shown)
    assert len(read_ideas(str(path), "toy")) == len(json.loads(shown)) == 2


def test_what_a_run_may_not_change_is_what_the_page_says() -> None:
    (shown,) = re.findall(r"May not, and is refused: (.*?)\.\n", SEARCH.read_text(), flags=re.DOTALL)
    in_words = {"verb", "submit", "env", "env_version", "evaluator_version", "preset", "policy", "ideas_sha256"}
    named = {flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+)", shown)} - {"seed"}
    assert set(SAME) == in_words | named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_placeholder_is_left(page: Path) -> None:
    assert re.findall(r"@[A-Z0-9_]+@", page.read_text()) == []
