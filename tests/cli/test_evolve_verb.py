"""``evolve`` and ``implement --ideas`` as a user runs them: the toy environment, real sandboxes, real kills."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from xar_agent.store import read_lines

pytestmark = pytest.mark.bwrap
SCRIPT = Path(__file__).resolve().parents[1] / "toy_evolve.json"
MODEL = f"scripted/{SCRIPT}"
KNOBS = ("evolve", "--env", "toy", "--policy", "knobs", "--ideas", "3", "--epochs", "2")
SEARCH = ("evolve", "--env", "toy", "--policy", "hill-climb", "--model", MODEL, "--ideas", "4", "--epochs", "2")


def proposals(run_dir: Path) -> list[Any]:
    return [line for line in read_lines(run_dir / "decisions.jsonl") if line["type"] == "proposal"]


def results(run_dir: Path) -> list[Any]:
    return [line for line in read_lines(run_dir / "decisions.jsonl") if line["type"] == "result"]


def evaluations(run_dir: Path) -> list[str]:
    """Ids of the jobs with a result on disk."""
    return sorted(path.parent.name for path in (run_dir / "jobs").glob("*/evaluation.json"))


@pytest.fixture
def toy(user_cache: Path) -> None:
    """The toy's data set is in the user's cache; preparing it takes seconds."""


@pytest.mark.usefixtures("toy")
def test_a_search_implements_trains_and_builds_on_what_works(xar: Any, runs_dir: Path) -> None:
    ended = xar(*SEARCH, "--run", "r", "--parallel", "1", "--json")
    assert ended.code == 0, ended.err
    report = ended.json
    found = {one["text"].split(".")[0]: one for one in report["candidates"]}
    best_seed = report["candidates"][0]["parents"] or [report["candidates"][0]["idea_id"]]
    children = [one for one in found.values() if one["epoch"] == 1]

    assert len(children) == 4
    for child in children:
        assert child["origin"] == "exploit"
        assert child["parents"] == best_seed
        assert "+LEARNING_RATE = 3.0" in Path(child["patch_path"]).read_text()
    assert "LOG_EVERY_STEPS = 8" in Path(found["Quieter log"]["patch_path"]).read_text()

    # Seeds of their own: with one for all, a lucky seed would make every idea look better than the baseline.
    seeds = [one["evaluations"][0]["seed"] for one in report["candidates"] if one["evaluations"]]
    assert len(set(seeds)) == len(seeds) == 6
    assert {seed % 10_000 for seed in seeds} == {1}

    twins = {"Larger steps", "Triple pace"}
    assert sum(bool(found[title]["same_as"]) for title in twins) == 1
    assert len(evaluations(runs_dir / "r")) == 6
    assert found["Broken schedule"]["failure"]["class"] == "CODE"
    assert "no such schedule" in found["Broken schedule"]["failure"]["reason"]
    assert counted(report) == {"ideas": 7, "open": 0, "repeats": 1, "valid": 6, "implemented": 7}

    # What the script says that its replies cost: 1,800 tokens a proposal, 440 a step of an episode.
    steps = sum(len(replies(title)) for title in found)
    assert spent(runs_dir / "r") == 2 * 1800 + 440 * steps

    before = (runs_dir / "r" / "decisions.jsonl").read_bytes(), spent(runs_dir / "r")
    again = xar(*SEARCH, "--run", "r", "--parallel", "1", "--json")
    assert again.code == 0
    assert again.json["candidates"] == report["candidates"]
    assert ((runs_dir / "r" / "decisions.jsonl").read_bytes(), spent(runs_dir / "r")) == before


def counted(report: Any) -> dict[str, int]:
    """How many ideas became what."""
    return {name: report["completion"][name] for name in ("ideas", "open", "repeats", "valid", "implemented")}


def replies(title: str) -> Sequence[Any]:
    """The script's replies to the idea of this title, which carry a bill."""
    cases = json.loads(SCRIPT.read_text())["cases"]
    return next(case["replies"] for case in cases if title in case["match"])


def spent(run_dir: Path) -> int:
    """Tokens by the run's own account."""
    lines = read_lines(run_dir / "ledger.jsonl")
    return sum(line["tokens"] for line in lines if "settle" in line)


@pytest.mark.usefixtures("toy")
def test_an_epoch_where_every_idea_fails_goes_on_and_the_next_prompt_holds_the_reasons(
    xar: Any, runs_dir: Path, tmp_path: Path
) -> None:
    script = json.loads(SCRIPT.read_text())
    first = script["cases"][2]["replies"][0]
    ideas = [one for one in json.loads(first["text"])["ideas"] if one["title"] == "Broken schedule"]
    first["text"] = json.dumps({"ideas": ideas})
    path = tmp_path / "failing.json"
    path.write_text(json.dumps(script))
    ended = xar(
        *("evolve", "--env", "toy", "--policy", "paper", "--model", f"scripted/{path}"),
        *("--ideas", "1", "--epochs", "2", "--parallel", "1", "--run", "r", "--json"),
    )
    assert ended.code == 0, ended.err
    by_epoch = {one["epoch"]: one for one in ended.json["candidates"]}
    assert "no such schedule" in by_epoch[0]["failure"]["reason"]
    # The script gives these ideas only to a prompt that holds the reason.
    assert by_epoch[1]["text"].startswith("Wider weights")
    assert by_epoch[1]["origin"] == "explore"


def killed_until_done(xar: Any, run_dir: Path, command: Sequence[str], kills: int, seed: int) -> int:
    """Kill the command at random moments, then let it finish; how often it was killed."""
    rng = random.Random(seed)
    done = 0
    while done < kills:
        child = xar.start(*command)
        deadline = time.monotonic() + rng.uniform(0.5, 6.0)
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        ended = child.poll() is not None
        if not ended:
            os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        if ended:
            break
        done += 1
    final = xar(*command)
    assert final.code == 0, final.err
    return done


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_killed_at_random_moments_it_decides_the_same_and_measures_everything_once(
    xar: Any, runs_dir: Path, kills: int
) -> None:
    command = [*SEARCH, "--parallel", "1", "--run"]
    assert xar(*command, "calm").code == 0
    done = killed_until_done(xar, runs_dir / "rough", [*command, "rough"], kills, seed=7)
    assert done >= 2
    assert proposals(runs_dir / "rough") == proposals(runs_dir / "calm")
    assert results(runs_dir / "rough") == results(runs_dir / "calm")
    jobs = {name: xar("jobs", "list", "--run", name, "--json").json for name in ("rough", "calm")}
    assert [job["state"] for job in jobs["rough"]["jobs"]] == [job["state"] for job in jobs["calm"]["jobs"]]
    assert len(evaluations(runs_dir / "rough")) == len(evaluations(runs_dir / "calm")) == 6


@pytest.mark.usefixtures("toy")
def test_a_token_budget_is_kept_and_a_larger_one_goes_on(xar: Any, runs_dir: Path) -> None:
    limit = 20_000
    ended = xar(*SEARCH, "--run", "r", "--budget-tokens", str(limit), "--json")
    assert "budget" in ended.err
    assert ended.json["stopped"] == f"the budget of {limit} tokens is used up"
    assert 0 < spent(runs_dir / "r") <= limit
    assert len(results(runs_dir / "r")) < 8
    assert ended.code == (0 if ended.json["completion"]["valid"] else 1)
    whole = xar(*SEARCH, "--run", "r", "--budget-tokens", "1000000", "--json")
    assert whole.code == 0
    assert counted(whole.json) == {"ideas": 7, "open": 0, "repeats": 1, "valid": 6, "implemented": 7}
    settings = json.loads((runs_dir / "r" / "run.json").read_text())
    assert settings["budget"]["budget_tokens"] == settings["settings"]["budget_tokens"] == 1_000_000
    assert [one["settings"] for one in settings["earlier_settings"]] == [{"budget_tokens": limit}]
    assert whole.json["stopped"] is None


@pytest.mark.usefixtures("toy")
def test_a_time_budget_is_kept_over_several_commands(xar: Any, runs_dir: Path) -> None:
    one = ("evolve", "--env", "toy", "--policy", "knobs", "--ideas", "1", "--epochs", "1", "--run", "one")
    assert xar(*one).code == 0
    one_idea_s = json.loads((runs_dir / "one" / "clock.json").read_text())["used_s"]
    limit_s = 10 + 3 * one_idea_s  # several ideas, however loaded the machine is
    command = ("evolve", "--env", "toy", "--policy", "knobs", "--ideas", "200", "--epochs", "1")
    hours = ("--run", "r", "--budget-hours", str(limit_s / 3600), "--json")
    began = time.monotonic()
    ended = xar(*command, *hours)
    assert "hours is used up" in ended.json["stopped"]
    used_s = json.loads((runs_dir / "r" / "clock.json").read_text())["used_s"]
    assert used_s <= limit_s
    assert time.monotonic() - began < limit_s + 6  # start of Python and the report are not work
    done = len(results(runs_dir / "r"))
    xar(*command, *hours)
    assert len(results(runs_dir / "r")) == done
    longer = xar(*command, "--run", "r", "--budget-hours", str(2.5 * limit_s / 3600), "--json")
    assert longer.json["completion"]["ideas"] > done


@pytest.mark.usefixtures("toy")
def test_ctrl_c_ends_it_with_130_and_the_same_command_goes_on(xar: Any, runs_dir: Path) -> None:
    child = xar.start(*KNOBS, "--run", "r")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((runs_dir / "r" / "jobs").glob("*/start-1")):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "--run r goes on" in err
    ended = xar(*KNOBS, "--run", "r", "--json")
    assert ended.code == 0
    assert ended.json["completion"]["ideas"] == 6
    assert len(evaluations(runs_dir / "r")) == ended.json["completion"]["valid"]


@pytest.mark.usefixtures("toy")
def test_a_file_of_ideas_is_a_batch_with_a_completion_rate(xar: Any, runs_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "ideas.txt"
    path.write_text("# three ideas\nFewer rows\n\nBroken schedule\nPairs\nFewer rows\n")
    ended = xar("implement", "--ideas", path, "--env", "toy", "--model", MODEL, "--run", "r", "--json")
    assert ended.code == 0, ended.err
    assert counted(ended.json) == {"ideas": 3, "open": 0, "repeats": 0, "valid": 2, "implemented": 2}
    assert ended.json["completion"]["rate"] == pytest.approx(2 / 3)
    assert [idea["text"] for idea in proposals(runs_dir / "r")[0]["ideas"]] == [
        "Fewer rows",
        "Broken schedule",
        "Pairs",
    ]
    assert {one["origin"] for one in ended.json["candidates"]} == {"user"}
    dry = xar("implement", "--ideas", path, "--env", "toy", "--model", MODEL, "--no-submit", "--json")
    assert dry.code == 0
    assert dry.json["completion"]["implemented"] == 2
    assert dry.json["completion"]["valid"] == 0


WRONG: list[tuple[list[str], str]] = [
    (["evolve", "--env", "toy", "--policy", "genetic"], "there is no policy 'genetic'"),
    (["evolve", "--env", "toy", "--ideas", "0"], "--ideas: "),
    (["evolve", "--env", "toy", "--epochs", "0"], "--epochs: "),
    (["evolve", "--env", "toy", "--parallel", "0"], "--parallel: "),
    (["evolve", "--env", "nowhere"], "no environment is called 'nowhere'"),
    (["evolve", "--env", "toy", "--model", "openai/my-own", "--budget-usd", "3"], "price of openai/my-own"),
    (["evolve", "--config", "nothing.toml"], "nothing.toml cannot be read"),
    (["implement"], "give one IDEA, or --ideas FILE"),
    (["implement", "an idea", "--ideas", "x"], "give one IDEA, or --ideas FILE"),
    (["implement", "--ideas", "nothing.txt"], "cannot read nothing.txt"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_refused_before_anything_is_made(
    xar: Any, runs_dir: Path, arguments: list[str], words: str
) -> None:
    ended = xar(*arguments, env={"OPENAI_API_KEY": "sk-none", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    assert ended.code == 2
    assert words in ended.error_lines[-1]
    assert list(runs_dir.iterdir()) == []


@pytest.mark.usefixtures("toy")
def test_a_run_is_not_continued_as_something_else(xar: Any, runs_dir: Path) -> None:
    command = ("evolve", "--env", "toy", "--policy", "knobs", "--ideas", "1", "--epochs", "1", "--run", "r")
    assert xar(*command).code in (0, 1)
    for other in (("--ideas", "2"), ("--search-seed", "9"), ("--seeds", "2"), ("--policy", "paper")):
        ended = xar(*command, *other)
        assert ended.code == 2
        assert "exists already, with another" in ended.error_lines[-1]
    assert xar(*command, "--epochs", "2").code in (0, 1)
    assert len(results(runs_dir / "r")) == 2


def test_an_environment_without_a_baseline_cannot_be_searched(xar: Any, toy_without_baseline: Path) -> None:
    ended = xar("evolve", "--env", "bare", "--policy", "knobs", env={"XAR_ENVS": str(toy_without_baseline)})
    assert ended.code == 2
    assert "envs calibrate bare" in ended.error_lines[-1]
