"""Calls and scripts of episodes on the toy environment."""

from __future__ import annotations

import json
from typing import Any

from xar_agent.agent.messages import ToolCall


def call(name: str, call_id: str = "", **arguments: Any) -> ToolCall:
    """A well-formed tool call."""
    return ToolCall(call_id, name, json.dumps(arguments))


RAISE_LR = call("edit_file", path="train.py", old_str="LEARNING_RATE = 1.0", new_str="LEARNING_RATE = 3.0")
GOOD_SCRIPT = [
    [call("read_file", path="train.py")],
    [RAISE_LR],
    [call("smoke_test")],
    [call("submit_run", message="raise the learning rate")],
]
