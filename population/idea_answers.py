"""Ideas out of a model's answer, however it wrote them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from xar_agent.agent.messages import ModelReply

MAX_IDEA_CHARS = 4_000
MAX_ANSWER_CHARS = 200_000
MAX_STARTS = 2_000
"""Places of an answer at which JSON is looked for: an answer of nothing but brackets must not take minutes."""
MIN_WORDS, MIN_CHARS = 3, 20
"""An idea with less than both is a placeholder; not every language has spaces between words."""
MAX_DEPTH = 8
"""Of lists and objects inside one idea."""

TITLES = ("title", "name", "headline", "idea", "ideatitle", "ideaname")
DESCRIPTIONS = (
    "description",
    "desc",
    "summary",
    "idea",
    "text",
    "ideadescription",
    "hypothesis",
    "rationale",
    "details",
)
CHANGES = ("codechanges", "changes", "codechange", "change", "implementation", "code", "edits", "steps")
VALUES = ("hyperparameters", "hyperparameter", "hyperparams", "parameters", "params", "settings", "config", "values")
LISTS = ("ideas", "idea", "proposals", "suggestions", "items", "results", "answer", "data", "list")
FIELDS = frozenset((*TITLES, *DESCRIPTIONS, *CHANGES, *VALUES))

Json = Any
"""A value from ``json.loads``."""


def read_ideas(answer: str) -> list[str]:
    """The text of each idea in the answer, in order, without repetitions; none when nothing can be read."""
    for fits in (True, False):  # a whole list first; else whatever objects there are, as in a list that was cut off
        found = [text for value in json_values(answer) for entry in entries_of(value, fits) if (text := text_of(entry))]
        if found:
            return list(dict.fromkeys(found))
    return []


def json_values(answer: str) -> Iterator[Json]:
    """Every JSON object and list in the text that is not inside another one, whatever stands around it."""
    text = answer[:MAX_ANSWER_CHARS]
    decoder = json.JSONDecoder()
    place = 0
    for _ in range(MAX_STARTS):
        start = re.compile(r"[\[{]").search(text, place)
        if start is None:
            return
        try:
            value, place = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            place = start.start() + 1
            continue
        yield value


def entries_of(value: Json, strict: bool) -> Iterator[Json]:
    """The ideas that a value holds: the entries of a list, or of the list in an object; else the object itself.

    ``strict`` leaves a list of bare strings out unless it stands under a name: prose is full of brackets.
    """
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict if strict else (dict, str)))
        return
    if value and all(isinstance(item, dict) for item in value.values()):  # {"idea 1": {...}, "idea 2": {...}}
        for item in value.values():
            yield from [item] if FIELDS & {plain_key(key) for key in item} else item.values()
        return
    named = {plain_key(key): item for key, item in value.items()}
    for key in LISTS:
        inner = named.get(key)
        if isinstance(inner, list | dict):
            yield from inner if isinstance(inner, list) else entries_of(inner, strict)
            return
    if FIELDS & named.keys():
        yield value


def text_of(entry: Json) -> str:
    """One idea as a readable paragraph; empty when there is none in it."""
    if isinstance(entry, str):
        text = clean(entry)
    elif isinstance(entry, dict):
        text = paragraph({plain_key(key): value for key, value in entry.items()})
    else:
        text = ""
    enough = len(text.split()) >= MIN_WORDS or len(text) >= MIN_CHARS
    return text[:MAX_IDEA_CHARS].rstrip() if enough else ""


def paragraph(fields: dict[str, Json]) -> str:
    """Title, description, code changes and hyper-parameters in one paragraph, each where it is given."""
    title = first_of(fields, TITLES)
    description = first_of({k: v for k, v in fields.items() if flat(v) != title}, DESCRIPTIONS)
    changes, values = first_of(fields, CHANGES), first_of(fields, VALUES)
    if not (title or description or changes) or fields.keys() <= {"name", "value"}:
        return ""  # a lone {name, value} is a hyper-parameter out of a list that was cut off
    pieces = [
        sentence(title),
        sentence(description),
        sentence(f"Code changes: {changes}" if changes else ""),
        sentence(f"Hyper-parameters: {values}" if values else ""),
    ]
    return " ".join(piece for piece in pieces if piece)


def first_of(fields: dict[str, Json], names: tuple[str, ...]) -> str:
    """The first of these fields that says something."""
    return next((text for name in names if (text := flat(fields.get(name)))), "")


def flat(value: Json, depth: int = 0) -> str:
    """A value in words: lists with semicolons, objects as ``name = value``."""
    if value is None or depth > MAX_DEPTH:
        return ""
    if isinstance(value, dict):
        named = {plain_key(key): item for key, item in value.items()}
        if {"name", "value"} <= named.keys():
            return f"{flat(named['name'], depth + 1)} = {flat(named['value'], depth + 1)}"
        parts = [f"{clean(key)} = {said}" for key, item in value.items() if (said := flat(item, depth + 1))]
        return ", ".join(parts)
    if isinstance(value, list):
        joint = ", " if all(isinstance(item, dict) for item in value) else "; "
        return joint.join(said for item in value if (said := flat(item, depth + 1)))
    return clean(value if isinstance(value, str) else json.dumps(value))


def sentence(text: str) -> str:
    """The text with an end."""
    return text if not text or text[-1] in ".!?:" else f"{text}."


def plain_key(key: object) -> str:
    """A field's name without the ways to write it: ``Hyper-Parameters`` is ``hyperparameters``."""
    return re.sub(r"[^a-z]", "", str(key).casefold())


def clean(text: str) -> str:
    """One line without control, invisible or unpaired characters: it goes to terminals, files and prompts."""
    spaced = " ".join(text.split())
    kept = "".join(c for c in spaced if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"})
    return " ".join(kept.split())


def problem_of(reply: ModelReply) -> str:
    """Why nothing could be read from an answer."""
    if reply.finish_reason == "length":
        return "it was cut off by the token limit before the first idea was complete."
    if not reply.text.strip():
        return "it was empty."
    return "there was no JSON object with ideas in it."


def answer_format(n: int, *, bounded: bool) -> dict[str, Any]:
    """``response_format`` for ``n`` ideas; ``bounded`` also limits lengths, which some servers' schemas cannot."""
    text: dict[str, Any] = {"type": "string"}
    limits = {"title": 50, "description": 90, "code_changes": 140, "name": 30, "value": 20}

    def of(name: str) -> dict[str, Any]:
        return {**text, "maxLength": limits[name]} if bounded else text

    pair = strict_object({name: of(name) for name in ("name", "value")})
    values = {"type": "array", "items": pair, **({"maxItems": 2} if bounded else {})}
    fields = {name: of(name) for name in ("title", "description", "code_changes")}
    idea = strict_object({**fields, "hyperparameters": values})
    ideas = {"type": "array", "items": idea, **({"minItems": n, "maxItems": n} if bounded else {})}
    schema = strict_object({"ideas": ideas})
    return {"type": "json_schema", "json_schema": {"name": "ideas", "strict": True, "schema": schema}}


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
