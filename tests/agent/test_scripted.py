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


def after(n_replies: int, text: str = "hi") -> ModelRequest:
    """The next request of a conversation in which so many replies were given."""
    turns = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "go on"}] * n_replies
    return ModelRequest([{"role": "user", "content": text}, *turns])


def written(path: Path, script: object) -> ScriptedModel:
    """The model of that script."""
    path.write_text(json.dumps(script))
    return ScriptedModel.from_file(path)


def test_a_script_is_read_from_a_file_and_costs_nothing(tmp_path: Path) -> None:
    calls = [{"name": "bash", "arguments": {"command": "ls"}}]
    model = written(tmp_path / "s.json", {"replies": [{"text": "look", "calls": calls}, {"text": "done"}]})
    first, second, over = (model.complete(after(n)) for n in range(3))
    assert (first.text, first.tool_calls[0].name, json.loads(first.tool_calls[0].arguments)) == (
        "look",
        "bash",
        {"command": "ls"},
    )
    assert (second.text, second.tool_calls, second.cost_usd) == ("done", (), 0.0)
    assert over.text == "The script is over."


def test_the_reply_depends_on_the_conversation_alone_so_that_several_may_share_a_script(tmp_path: Path) -> None:
    model = written(tmp_path / "s.json", {"replies": [{"text": "one"}, {"text": "two"}]})
    assert [model.complete(after(n)).text for n in (1, 0, 1, 0)] == ["two", "one", "two", "one"]


def test_the_first_case_whose_pattern_is_in_the_messages_answers_else_the_replies(tmp_path: Path) -> None:
    cases = [
        {"match": "learning rate.*go on", "replies": [{"text": "never"}, {"text": "rate, second"}]},
        {"match": "learning rate", "replies": [{"text": "rate"}]},
        {"match": "rate", "replies": [{"text": "too late"}]},
    ]
    model = written(tmp_path / "s.json", {"cases": cases, "replies": [{"text": "other"}]})
    assert model.complete(after(0, "raise the learning rate")).text == "rate"
    assert model.complete(after(1, "raise the\nlearning rate")).text == "rate, second"
    assert model.complete(after(0, "use GELU")).text == "other"
    only = written(tmp_path / "t.json", {"cases": cases})
    assert only.complete(after(0, "use GELU")).text == "The script is over."


def test_a_scripted_reply_may_have_a_bill(tmp_path: Path) -> None:
    bill = {"input_tokens": 20, "output_tokens": 5, "cost_usd": 0.25}
    reply = written(tmp_path / "s.json", {"replies": [{"text": "a", **bill}]}).complete(ASK)
    assert (reply.input_tokens, reply.output_tokens, reply.cost_usd) == (20, 5, 0.25)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"replies": 5}',
        '{"replies": ["x"]}',
        '{"replies": [{"calls": [{}]}]}',
        '{"cases": [{"match": "(", "replies": []}]}',
        '{"cases": [{"match": "a"}]}',
    ],
)
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
