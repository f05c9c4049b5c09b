"""How a batch ends: what counts as success, whose fault a lost training is, and what may go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xar_agent.cli.batch import BatchResult
from xar_agent.cli.evolve import exit_code
from xar_agent.errors import BudgetReached, SandboxLost, XarError
from xar_agent.population.proposals import MenuExhausted
from xar_agent.store import read_lines

MODEL = f"scripted/{Path(__file__).resolve().parents[1] / 'toy_evolve.json'}"


@pytest.mark.parametrize(
    ("stopped", "n_valid", "code"),
    [
        (None, 1, 0),
        (None, 0, 1),
        (BudgetReached("used up"), 1, 0),
        (BudgetReached("used up"), 0, 1),
        (MenuExhausted("no setting left"), 1, 0),
        (SandboxLost("no sandbox starts"), 1, 1),
    ],
)
def test_it_succeeds_only_when_the_plan_or_the_budget_is_used_up(
    stopped: XarError | None, n_valid: int, code: int
) -> None:
    assert exit_code(BatchResult(Path("r"), stopped, n_valid, 3, 1.0), n_valid) == code


@pytest.mark.bwrap
@pytest.mark.usefixtures("user_cache")
def test_a_run_is_not_continued_with_another_version_of_its_environment(
    xar: Any, runs_dir: Path, toy_without_baseline: Path, tmp_path: Path
) -> None:
    (tmp_path / "ideas.txt").write_text("Fewer rows\n")
    command = ("implement", "--ideas", tmp_path / "ideas.txt", "--env", f"{toy_without_baseline}/", "--model", MODEL)
    assert xar(*command, "--run", "r").code == 0
    with (toy_without_baseline / "env.toml").open("a") as file:
        file.write("# another version\n")
    ended = xar(*command, "--run", "r")
    assert ended.code == 2
    assert "exists already, with another env version" in ended.error_lines[-1]


@pytest.mark.bwrap
@pytest.mark.usefixtures("user_cache")
def test_training_that_the_house_loses_ends_the_run_and_leaves_the_ideas_open(
    xar: Any, runs_dir: Path, toy_without_baseline: Path, tmp_path: Path
) -> None:
    # The unchanged repository does not train; a smoke test is shorter than that, so that only full runs see it.
    train = toy_without_baseline / "repo" / "train.py"
    broken = train.read_text().replace("step += 1\n", "step += 1\n            assert step < 40\n")
    assert broken != train.read_text()
    train.write_text(broken)
    ideas = [f"Set the knobs: LEARNING_RATE = {rate} (train.py)." for rate in (0.5, 0.6, 0.7, 0.8, 0.9)]
    (tmp_path / "ideas.txt").write_text("\n".join(ideas))
    command = ("implement", "--ideas", tmp_path / "ideas.txt", "--env", f"{toy_without_baseline}/", "--model", MODEL)
    ended = xar(*command, "--run", "r", "--parallel", "1", "--json")
    assert ended.code == 1
    assert "the unchanged repository does not train here" in ended.json["stopped"]
    decisions = read_lines(runs_dir / "r" / "decisions.jsonl")
    assert sum(line["type"] == "result" for line in decisions) == 1


@pytest.mark.bwrap
@pytest.mark.usefixtures("user_cache")
def test_an_idea_that_the_budget_cut_off_is_open_and_no_failure(xar: Any, runs_dir: Path) -> None:
    search = ("evolve", "--env", "toy", "--policy", "hill-climb", "--model", MODEL, "--ideas", "4", "--epochs", "1")
    ended = xar(*search, "--run", "r", "--parallel", "1", "--budget-tokens", "20000", "--json")
    decisions = read_lines(runs_dir / "r" / "decisions.jsonl")
    known = {line["idea_id"] for line in decisions if line["type"] == "result"}
    cut_off = [one for one in ended.json["candidates"] if one["idea_id"] not in known]
    assert cut_off
    assert {one["state"] for one in cut_off} == {"open"}
    (epoch,) = ended.json["epochs"]
    assert (epoch["open"], epoch["ideas"] + epoch["repeats"]) == (len(cut_off), len(known))
