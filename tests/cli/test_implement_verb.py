"""One idea end to end through the real command line: toy environment, scripted model, isolating sandbox."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.bwrap

IDEA = "Raise the learning rate to 3.0"
Script = Callable[..., str]


def call(name: str, **arguments: object) -> dict[str, Any]:
    return {"calls": [{"name": name, "arguments": arguments}]}


LOOK = call("bash", command="env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; ls ~ /")
EDIT = call("edit_file", path="train.py", old_str="LEARNING_RATE = 1.0", new_str="LEARNING_RATE = 3.0")
SMOKE = call("smoke_test")
SUBMIT = call("submit_run", message="raise the learning rate")


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """``script(*replies)``: the name of a model that gives these replies."""

    def write(*replies: dict[str, Any]) -> str:
        path = tmp_path / "script.json"
        path.write_text(json.dumps({"replies": replies}))
        return f"scripted/{path}"

    return write


def test_an_idea_becomes_a_score_and_nothing_leaks(
    xar: Any, script: Script, runs_dir: Path, json_keys: set[str], planted_key: str, leaks: Any
) -> None:
    model = script({"text": f"I saw {planted_key}.", **LOOK}, EDIT, SMOKE, SUBMIT)
    seeds = ["--seeds", "2", "--seed", "7"]
    ended = xar("implement", IDEA, "--env", "toy", "--model", model, "--run", "r", *seeds, "--json", "--debug")
    assert ended.code == 0, ended.err
    found = ended.json
    assert set(found) == json_keys | {"evaluations"}
    assert (found["outcome"], found["steps"], found["cost_usd"]) == ("submitted", 4, 0.0)
    assert found["smoke"] == {"passed": True, "reason": ""}
    assert found["job"]["state"] == "succeeded"
    assert found["evaluation"]["valid"]
    assert Path(found["trajectory_path"]).name == "trajectory.jsonl"
    assert "+LEARNING_RATE = 3.0" in Path(found["patch_path"]).read_text()
    assert leaks(runs_dir, planted_key) == []
    assert planted_key not in ended.out + ended.err
    check_seeds(found)
    check_replay(xar, found)


def check_seeds(found: dict[str, Any]) -> None:
    """Several seeds are listed and averaged."""
    values = [one["value"] for one in found["evaluations"]]
    assert [one["seed"] for one in found["evaluations"]] == [7, 8]
    assert values[0] != values[1]
    assert found["evaluation"]["value"] == pytest.approx(sum(values) / 2)


def check_replay(xar: Any, found: dict[str, Any]) -> None:
    """The episode can be looked at, and decides the same once more."""
    folder = Path(found["trajectory_path"]).parent
    text = xar("replay", folder).out
    assert IDEA in text
    assert "+LEARNING_RATE = 3.0" in text
    steps = xar("replay", found["run_dir"], "--json").json["steps"]
    assert [one["calls"][0]["name"] for one in steps] == ["bash", "edit_file", "smoke_test", "submit_run"]
    dry = xar("replay", folder, "--mode", "dry", "--json")
    assert (dry.code, dry.json["identical"], dry.json["steps"]) == (0, True, 4)


def test_a_person_sees_steps_patch_smoke_training_and_a_table(xar: Any, script: Script) -> None:
    ended = xar("implement", IDEA, "--env", "toy", "--model", script(EDIT, SMOKE, SUBMIT), "--run", "r")
    assert ended.code == 0, ended.err
    for told in ("model ", "env ", "sandbox ", "idea ", "step 1 ", "step 3 ", "patch ", "smoke ", "train "):
        assert any(line.startswith(told) for line in ended.error_lines), told
    assert "+LEARNING_RATE = 3.0" in ended.err
    for label in ("score", "verdict", "fidelity", "compute", "cost", "run", "next"):
        assert any(line.startswith(f"{label} ") for line in ended.out.splitlines()), label
    assert "\x1b" not in ended.out + ended.err
    assert "xar-agent replay" in ended.out


def test_without_submission_a_passing_smoke_test_is_success(xar: Any, script: Script) -> None:
    ended = xar("implement", IDEA, "--env", "toy", "--model", script(EDIT, SMOKE, SUBMIT), "--no-submit", "--json")
    assert (ended.code, ended.json["smoke"]["passed"]) == (0, True)
    assert (ended.json["job"], ended.json["evaluation"], ended.json["verdict"]) == (None, None, "none")


def test_without_submission_an_unchanged_repository_is_no_success(xar: Any, script: Script) -> None:
    model = script(SMOKE, *[{"text": "All is well as it is."}] * 3)
    ended = xar("implement", IDEA, "--env", "toy", "--model", model, "--no-submit", "--json")
    assert (ended.code, ended.json["outcome"], ended.json["smoke"]["passed"]) == (1, "gave_up", True)


def test_a_time_budget_that_ends_the_episode_gives_the_result_so_far(xar: Any, script: Script) -> None:
    model = script(EDIT, *[call("bash", command="sleep 3")] * 9)
    budget = ["--budget-hours", str(5 / 3600)]
    ended = xar("implement", IDEA, "--env", "toy", "--model", model, "--json", *budget)
    assert (ended.code, ended.json["outcome"]) == (1, "over_budget"), ended.err
    assert ended.json["exit_reason"] == "the time budget is used up"
    assert "+LEARNING_RATE = 3.0" in Path(ended.json["patch_path"]).read_text()


def test_a_model_that_gives_up_is_exit_1_with_its_reason(xar: Any, script: Script) -> None:
    words = {"text": "I cannot do that."}
    ended = xar("implement", IDEA, "--env", "toy", "--model", script(words, words, words), "--json")
    assert ended.code == 1
    assert ended.json["outcome"] == "gave_up"
    assert (ended.json["job"], ended.json["evaluation"]) == (None, None)


def test_the_step_limit_ends_the_episode_and_keeps_the_patch(xar: Any, script: Script) -> None:
    model = script(EDIT, *[LOOK] * 9)
    ended = xar("implement", IDEA, "--env", "toy", "--model", model, "--max-steps", "2", "--json")
    assert (ended.code, ended.json["outcome"], ended.json["steps"]) == (1, "over_budget", 2)
    assert "+LEARNING_RATE = 3.0" in Path(ended.json["patch_path"]).read_text()


def test_a_parent_patch_is_where_the_agent_starts(
    xar: Any, script: Script, make_patch: Callable[[str, str], Path]
) -> None:
    parent = make_patch("BATCH_SIZE = 8 ", "BATCH_SIZE = 4 ")
    model = script(EDIT, SMOKE)
    ended = xar("implement", IDEA, "--env", "toy", "--model", model, "--parent", parent, "--no-submit", "--json")
    patch = Path(ended.json["patch_path"]).read_text()
    assert "+BATCH_SIZE = 4 " in patch
    assert "+LEARNING_RATE = 3.0" in patch


def test_a_dry_run_starts_and_writes_nothing(xar: Any, isolated: Path) -> None:
    ended = xar("implement", IDEA, "--env", "toy", "--dry-run")
    assert ended.code == 0
    assert "qwen2.5-coder-1.5b: 1.1 GB" in ended.out
    assert "nothing was started" in ended.out
    assert not any((isolated / "runs").iterdir())
    assert not any((isolated / "cache").iterdir())


def test_an_interrupted_episode_goes_on_under_its_name(xar: Any, script: Script, runs_dir: Path) -> None:
    model = script(EDIT, call("bash", command="sleep 60"), SMOKE, SUBMIT)
    arguments = ["implement", IDEA, "--env", "toy", "--model", model, "--run", "r", "--no-submit", "--json"]
    command: subprocess.Popen[str] = xar.start(*arguments)
    wait_for_step(runs_dir / "r", 2)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=30)
    assert command.returncode == 130, err
    assert "--run r" in json.loads(out)["hint"]
    # The edit is there already: the conversation goes on with the second reply, which no longer sleeps.
    again = xar(*arguments[:5], script(EDIT, SMOKE, SUBMIT), *arguments[6:])
    assert again.code == 0, again.err
    assert (again.json["outcome"], again.json["steps"]) == ("submitted", 2)
    assert "+LEARNING_RATE = 3.0" in Path(again.json["patch_path"]).read_text()


def wait_for_step(run: Path, step: int) -> None:
    """Wait until the model was asked for that step and has answered."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in run.glob("impl/*/trajectory.jsonl"):
            if f'"type":"tool_call","data":{{"step":{step}' in path.read_text():
                return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached")


def test_a_run_of_another_idea_is_not_resumed(xar: Any, script: Script) -> None:
    model = script(EDIT, SMOKE)
    first = xar("implement", IDEA, "--env", "toy", "--model", model, "--run", "r", "--no-submit", "--json")
    assert first.code == 0, first.err
    other = xar("implement", "Something else", "--env", "toy", "--model", model, "--run", "r", "--json")
    assert other.code == 2
    assert "another idea" in other.json["error"]
