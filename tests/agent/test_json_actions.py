"""JSON actions: a model without tool calling drives the same loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer, fail, say

from xar_agent.agent.implement import implement
from xar_agent.agent.json_actions import JsonActionModel, action_format
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ModelReply, ModelRequest
from xar_agent.agent.model import LitellmModel
from xar_agent.agent.scripted import ScriptedModel
from xar_agent.agent.types import Idea
from xar_agent.jobs.bench import Bench
from xar_agent.tools.toolbox import make_tools, tool_schema

TOOLS = [tool_schema(tool) for tool in make_tools(None)]
REQUEST = ModelRequest([{"role": "system", "content": "Work."}, {"role": "user", "content": "Go."}], TOOLS)


def action(tool: str, **arguments: Any) -> str:
    """What an obedient model writes."""
    return json.dumps({"thought": "so", "action": {"tool": tool, "arguments": arguments}})


EPISODE = [
    action("read_file", path="train.py", start_line=None, max_lines=20),
    action(
        "edit_file", path="train.py", old_str="LEARNING_RATE = 1.0", new_str="LEARNING_RATE = 3.0", replace_all=None
    ),
    "I forgot to call a tool.",
    action("smoke_test"),
    action("submit_run", message="done"),
]


def test_a_whole_episode_goes_without_tools_on_the_wire(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    with StubServer([say(text) for text in EPISODE]) as server:
        model = JsonActionModel(LitellmModel("openai/stub", api_base=server.url))
        done = implement(idea, toy_bench, model, limits=EpisodeLimits(), episode_dir=episode_dir)
        assert (done.outcome, done.steps) == ("submitted", 5)
        for request in server.requests:
            assert "tools" not in request
            assert request["response_format"]["type"] == "json_schema"
            assert {m["role"] for m in request["messages"]} <= {"system", "user", "assistant"}
        assert json.loads(server.requests[1]["messages"][2]["content"])["action"]["tool"] == "read_file"
        assert server.requests[1]["messages"][3]["content"].startswith("Result:\ntrain.py, lines 1-20")


def test_the_schema_allows_only_the_tools_and_wants_every_argument() -> None:
    schema = action_format(TOOLS)["json_schema"]["schema"]
    actions = schema["properties"]["action"]["anyOf"]
    assert [a["properties"]["tool"]["enum"] for a in actions] == [[t["function"]["name"]] for t in TOOLS]
    bash = actions[0]["properties"]["arguments"]
    assert bash["required"] == ["command", "timeout_s", "cwd"]
    assert bash["properties"]["timeout_s"]["type"] == ["integer", "null"]


@pytest.mark.parametrize(
    "text",
    [
        action("bash", command="ls"),
        "```json\n" + action("bash", command="ls") + "\n```",
        '{"name": "bash", "arguments": {"command": "ls"}}',
    ],
)
def test_the_common_ways_to_write_a_call_are_read(text: str) -> None:
    reply = JsonActionModel(ScriptedModel([ModelReply(text)])).complete(REQUEST)
    (called,) = reply.tool_calls
    assert (called.name, json.loads(called.arguments)) == ("bash", {"command": "ls"})


@pytest.mark.parametrize(
    "text", ["done", '{"action": {"tool": "rm"}}', "[1]", '{"action": 3}', '{"action": {"tool": ["bash"]}}']
)
def test_what_is_no_action_stays_text(text: str) -> None:
    assert JsonActionModel(ScriptedModel([ModelReply(text)])).complete(REQUEST).tool_calls == ()


def test_detection_keeps_native_calls_where_they_work() -> None:
    with StubServer([say("", ("a", "bash", {"command": "ls"}))]) as server:
        model = JsonActionModel(LitellmModel("openai/stub", api_base=server.url), detect=True)
        assert model.complete(REQUEST).tool_calls[0].id == "a"
        assert model.protocol == "native"
        assert "tools" in server.requests[0]


def test_detection_changes_over_when_the_server_refuses_tools() -> None:
    with StubServer([fail(400, "this model does not support tools"), say(action("smoke_test"))]) as server:
        model = JsonActionModel(LitellmModel("openai/stub", api_base=server.url), detect=True)
        assert model.complete(REQUEST).tool_calls[0].name == "smoke_test"
        assert model.protocol == "json"
        model.complete(REQUEST)
        assert ["tools" in request for request in server.requests] == [True, False, False]


def test_detection_changes_over_when_calls_come_as_text() -> None:
    inner = ScriptedModel([ModelReply(action("smoke_test"))])
    model = JsonActionModel(inner, detect=True)
    assert model.complete(REQUEST).tool_calls[0].name == "smoke_test"
    assert model.protocol == "json"
