"""JSON actions: a schema-constrained protocol for models and servers without tool calling.

The model writes one JSON object a turn. The loop sees ordinary tool calls, so trajectory and replay do not differ.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from xar_agent import prompts
from xar_agent.agent.messages import ChatModel, Message, ModelProtocol, ModelReply, ModelRequest, ToolCall, ToolsRefused

FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)


class JsonActionModel:
    """Speaks to ``inner`` without tools, and to the loop with them."""

    def __init__(self, inner: ChatModel, *, detect: bool = False) -> None:
        """Args:
        inner: the model that writes the actions.
        detect: try native tool calls first, and change over for good when the server refuses them or the model writes
            its calls as text.
        """
        self.inner = inner
        self.name = inner.name
        self.protocol: ModelProtocol = "native" if detect else "json"
        """Changes to "json" when detection has found that the model needs it."""

    def complete(self, request: ModelRequest) -> ModelReply:
        """One reply with at most one tool call."""
        if self.protocol == "native":
            reply = self._try_native(request)
            if reply is not None:
                return reply
        reply = self.inner.complete(as_json_request(request))
        return with_calls(reply, request)

    def close(self) -> None:
        """Close the model behind it."""
        self.inner.close()

    def _try_native(self, request: ModelRequest) -> ModelReply | None:
        """The native reply, or None when the server refuses tools."""
        try:
            reply = self.inner.complete(request)
        except ToolsRefused:
            self.protocol = "json"
            return None
        if reply.tool_calls:
            return reply
        read = with_calls(reply, request)
        if read.tool_calls:
            self.protocol = "json"
        return read


def as_json_request(request: ModelRequest) -> ModelRequest:
    """The same conversation without tools, asking for one action by schema."""
    if not request.tools:
        return request
    told = prompts.render("json_actions", tools=[describe(tool["function"]) for tool in request.tools])
    messages = [plain_message(message) for message in request.messages]
    if messages and messages[0]["role"] == "system":
        messages[0] = {**messages[0], "content": f"{messages[0]['content']}\n{told}"}
    else:
        messages.insert(0, {"role": "system", "content": told})
    return replace(request, messages=messages, tools=[], response_format=action_format(request.tools))


def describe(function: dict[str, Any]) -> dict[str, str]:
    """A tool in words: the schema alone does not reach a small model's attention."""
    properties = function["parameters"]["properties"]
    required = function["parameters"]["required"]
    words = [
        f"{name} ({spec['type']}{'' if name in required else ', optional'}): {spec['description']}"
        for name, spec in properties.items()
    ]
    return {"name": function["name"], "description": function["description"], "arguments": "; ".join(words) or "none"}


def action_format(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """``response_format`` that allows exactly one call of one of the tools."""
    actions = [action_schema(tool["function"]) for tool in tools]
    schema = {
        "type": "object",
        "properties": {"thought": {"type": "string"}, "action": {"anyOf": actions}},
        "required": ["thought", "action"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "action", "strict": True, "schema": schema}}


def action_schema(function: dict[str, Any]) -> dict[str, Any]:
    """One tool's action. Strict mode wants every argument: an optional one may be null instead."""
    required = function["parameters"]["required"]
    properties = {
        name: {"type": spec["type"] if name in required else [spec["type"], "null"]}
        for name, spec in function["parameters"]["properties"].items()
    }
    return {
        "type": "object",
        "properties": {
            "tool": {"type": "string", "enum": [function["name"]]},
            "arguments": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
        "required": ["tool", "arguments"],
        "additionalProperties": False,
    }


def plain_message(message: Message) -> Message:
    """A message without tool roles: calls become the JSON that the model would have written, results user text."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result:\n{message['content']}"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [written_action(message.get("content") or "", call["function"]) for call in calls]
    return {"role": "assistant", "content": "\n".join(written)}


def written_action(thought: str, function: dict[str, Any]) -> str:
    """An earlier call in the protocol's own form."""
    action = {"tool": function["name"], "arguments": json.loads(function["arguments"] or "{}")}
    return json.dumps({"thought": thought, "action": action}, ensure_ascii=False)


def with_calls(reply: ModelReply, request: ModelRequest) -> ModelReply:
    """The reply with the action in its text as a tool call; unchanged when there is none."""
    known = {tool["function"]["name"] for tool in request.tools}
    read = read_action(reply.text)
    if read is None or read[1] not in known:
        return reply
    thought, name, arguments = read
    call_id = f"json_{sum(m['role'] == 'assistant' for m in request.messages) + 1}"
    calls = (ToolCall(call_id, name, json.dumps(arguments, ensure_ascii=False)),)
    finish = "tool_calls" if reply.finish_reason == "stop" else reply.finish_reason
    return replace(reply, text=thought, tool_calls=calls, finish_reason=finish)


def read_action(text: str) -> tuple[str, str, Any] | None:
    """(thought, tool, arguments) from a reply: the protocol's own form, or the common ``{"name", "arguments"}``."""
    fenced = FENCED.search(text)
    source = fenced.group(1) if fenced else text.strip()
    try:
        value = json.loads(source)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    inner = value.get("action")
    action = inner if isinstance(inner, dict) else value
    name = action.get("tool") or action.get("name")
    if not isinstance(name, str):
        return None
    return str(value.get("thought") or ""), name, action.get("arguments") or {}
