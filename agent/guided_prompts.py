"""The guided policy's prompts as chats, and the recipes that an idea calls for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from xar_agent.agent.outline import Part
from xar_agent.prompts import render

TURN = re.compile(r"^<<(system|user|assistant)>>\n", re.MULTILINE)
MAX_RECIPES = 3
Chat = list[dict[str, str]]


def chat(name: str, **values: Any) -> Chat:
    """The prompt ``name`` cut into the turns of a chat at its ``<<role>>`` lines."""
    pieces = TURN.split(render(name, **values))[1:]
    return [{"role": role, "content": text.strip("\n")} for role, text in zip(pieces[::2], pieces[1::2], strict=True)]


def pick_chat(idea: str, parts: Sequence[Part]) -> Chat:
    """Which part must change?"""
    return chat("guided_pick", idea=idea, parts=parts)


def pick_schema(parts: Sequence[Part]) -> dict[str, Any]:
    """Only these parts can be the answer."""
    labels = {"enum": [part.label for part in parts]}
    return {"type": "object", "properties": {"part": labels}, "required": ["part"]}


def value_chat(idea: str, part: Part) -> Chat:
    """Which value must this constant have?"""
    return chat("guided_value", idea=idea, line=part.source)


def value_schema(choices: Sequence[str] = ()) -> dict[str, Any]:
    """Any short text, or one of these."""
    value = {"enum": list(choices)} if choices else {"type": "string", "maxLength": 60}
    return {"type": "object", "properties": {"value": value}, "required": ["value"]}


def rewrite_chat(idea: str, part: Part, *, imports: Sequence[str], constants: Sequence[str]) -> Chat:
    """What must the code of this part be?"""
    return chat(
        "guided_rewrite",
        idea=idea,
        path=part.path,
        source=part.source,
        imports="; ".join(imports) or "no imports",
        constants=", ".join(constants) or "none",
        recipes=recipes_for(idea),
    )


def correction(problem: str, answer: str) -> dict[str, str]:
    """The user turn that sends an answer back."""
    return {"role": "user", "content": render("guided_correct", problem=problem, answer=answer).strip()}


def recipes_for(idea: str) -> list[str]:
    """The one-line recipes whose words are in the idea, longest match first."""
    folded = re.sub(r"\s+", " ", idea.casefold())
    hits: list[tuple[int, str]] = []
    for line in render("guided_recipes").splitlines():
        words, _, recipe = line.partition(" -> ")
        lengths = [len(word) for word in words.split(", ") if mentions(folded, word.casefold())]
        if lengths:
            hits.append((-max(lengths), recipe))
    return [recipe for _, recipe in sorted(hits)[:MAX_RECIPES]]


def mentions(text: str, word: str) -> bool:
    """The word is in the text, not as a piece of a longer one in front."""
    return re.search(rf"(?<![a-z0-9]){re.escape(word)}", text) is not None


def read_json_field(text: str, field: str) -> str:
    """One string field of a JSON answer, "" when it is cut off or not there."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return ""
    return str(value.get(field, "")) if isinstance(value, dict) else ""


def read_fenced(text: str) -> str:
    """The code of an answer: what stands in its first fence, which a stop string may have left open."""
    match = re.search(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", text, re.DOTALL)
    return (match.group(1) if match else text).strip("\n").rstrip()
