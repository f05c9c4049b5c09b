"""Scripted and recorded models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from episodes import GOOD_SCRIPT

from xar_agent.agent.implement import implement
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ModelRequest
from xar_agent.agent.scripted import RecordedModel, RecordingOver, ScriptedModel
from xar_agent.agent.trajectory import read_trajectory
from xar_agent.agent.types import Idea
from xar_agent.errors import ConfigError
from xar_agent.jobs.bench import Bench

ASK = ModelRequest([{"role": "user", "content": "hi"}])


def test_a_script_is_read_from_a_file_and_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    calls = [{"name": "bash", "arguments": {"command": "ls"}}]
    path.write_text(json.dumps({"replies": [{"text": "look", "calls": calls}, {"text": "done"}]}))
    model = ScriptedModel.from_file(path)
    first, second, over = (model.complete(ASK) for _ in range(3))
    assert (first.text, first.tool_calls[0].name, json.loads(first.tool_calls[0].arguments)) == (
        "look",
        "bash",
        {"command": "ls"},
    )
    assert (second.text, second.tool_calls, second.cost_usd) == ("done", (), 0.0)
    assert over.text == "The script is over."


@pytest.mark.parametrize("text", ["{", "[]", '{"replies": 5}', '{"replies": ["x"]}', '{"replies": [{"calls": [{}]}]}'])
def test_a_file_that_is_no_script_is_a_user_error_with_an_example(tmp_path: Path, text: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ScriptedModel.from_file(path)
    assert "replies" in caught.value.hint


def test_a_missing_script_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        ScriptedModel.from_file(tmp_path / "none.json")


def test_a_recorded_model_gives_its_replies_and_reports_other_requests(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    implement(idea, toy_bench, ScriptedModel(GOOD_SCRIPT), limits=EpisodeLimits(), episode_dir=episode_dir)
    model = RecordedModel(read_trajectory(episode_dir))
    assert model.complete(ASK).tool_calls == tuple(GOOD_SCRIPT[0])
    assert model.mismatches == [1]
    for _ in GOOD_SCRIPT[1:]:
        model.complete(ASK)
    with pytest.raises(RecordingOver):
        model.complete(ASK)
