"""What models are told of the tools, and what becomes of what they send."""

from __future__ import annotations

import json

import pytest
from smolagents import Tool

from xar_agent.tools.toolbox import check_call, make_tools, tool_schema

TOOLS = make_tools(None)


def test_there_are_the_seven_tools_and_they_are_smolagents_tools() -> None:
    names = ["bash", "read_file", "edit_file", "write_file", "search", "smoke_test", "submit_run"]
    assert [tool.name for tool in TOOLS] == names
    assert all(isinstance(tool, Tool) for tool in TOOLS)


def test_optional_arguments_have_their_defaults_in_the_schema() -> None:
    parameters = tool_schema(TOOLS[0])["function"]["parameters"]
    assert parameters["required"] == ["command"]
    assert parameters["properties"]["timeout_s"]["default"] == 120
    assert "nullable" not in json.dumps(parameters)


@pytest.mark.parametrize(
    ("name", "raw", "code"),
    [
        ("bash", '{"command": "ls"', "FORMAT"),
        ("bash", '["ls"]', "FORMAT"),
        ("bash", "{}", "FORMAT"),
        ("bash", '{"command": 5}', "FORMAT"),
        ("bash", '{"command": "ls", "shell": "zsh"}', "FORMAT"),
        ("bash", '{"command": "ls", "timeout_s": "soon"}', "FORMAT"),
        ("bash", "[" * 100_000, "FORMAT"),
        ("bash", '{"command": "ls\\u0000"}', "FORMAT"),
        ("bash", '{"command": "echo \\ud800"}', "FORMAT"),
        ("write_file", '{"path": "train.py", "content": "\\udfff"}', "FORMAT"),
        ("bash", '{"command": "' + "x" * 100_001 + '"}', "FORMAT"),
        ("bash", '{"command": "ls", "timeout_s": ' + "9" * 400 + "}", "FORMAT"),
        ("bash", '{"command": "ls", "timeout_s": "' + "9" * 400 + '"}', "FORMAT"),
        ("read_file", '{"path": "a", "start_line": 1e300}', "FORMAT"),
        ("rm", "{}", "UNKNOWN_TOOL"),
    ],
    ids=lambda text: str(text)[:60],
)
def test_a_call_that_cannot_be_run_is_refused_before_it_runs(name: str, raw: str, code: str) -> None:
    arguments, refused = check_call(TOOLS, name, raw)
    assert arguments == {}
    assert refused is not None
    assert refused.error == code


def test_harmless_spellings_are_understood() -> None:
    arguments, refused = check_call(TOOLS, "bash", '{"command": "ls", "timeout_s": "30", "cwd": null}')
    assert refused is None
    assert arguments == {"command": "ls", "timeout_s": 30}
    arguments, _ = check_call(
        TOOLS, "edit_file", '{"path": "a", "old_str": "b", "new_str": "c", "replace_all": "true"}'
    )
    assert arguments["replace_all"] is True
    assert check_call(TOOLS, "smoke_test", "")[1] is None
