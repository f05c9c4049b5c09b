"""Whether a picked part is one that the idea's words can mean, and which constants they mean otherwise."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence

from xar_agent.agent.guided_values import NUMBER, OLD_VALUE, NotArithmetic, close, evaluate, meanings_of
from xar_agent.agent.outline import Part

STEM_CHARS = 4  # "warm" is in WARMUP_FRACTION, "layers" begins like N_LAYER
WORD = re.compile(r"[a-z]+")


def meant_instead(idea: str, parts: Sequence[Part], picked: Part, known: Mapping[str, ast.expr]) -> list[Part]:
    """The constants to choose from in place of the picked part; empty when the pick can stand.

    Args:
        idea: in plain language.
        parts: all that could have been picked.
        picked: what the model picked.
        known: the assignments of its file.
    """
    constants = [part for part in parts if part.kind == "constant" and part != picked]
    held = holding_old_value(idea, constants, picked, known)
    if held or picked.kind != "constant" or shares_a_word(idea, picked):
        return held
    return [part for part in constants if phrase_of(part) in " ".join(words_of(idea))]


def holding_old_value(idea: str, constants: Sequence[Part], picked: Part, known: Mapping[str, ast.expr]) -> list[Part]:
    """Constants of the picked part's file with the value that the idea says is there now ("8 instead of 32").

    Those that the part uses, or all when it is a constant itself, unless that one has the value.
    """
    old = old_numbers(idea)

    def holds(part: Part) -> bool:
        return any(close(value_of(known[part.name], known), number) for number in old)

    if picked.kind == "constant":
        used = set() if holds(picked) else known.keys()
    else:
        used = {node.id for node in ast.walk(ast.parse(picked.source)) if isinstance(node, ast.Name)}
    return [part for part in constants if part.path == picked.path and part.name in used and holds(part)]


def shares_a_word(idea: str, part: Part) -> bool:
    """Some word of the constant's line, its comment included, begins like a word of the idea."""
    stems = {word[:STEM_CHARS] for word in words_of(idea) if len(word) >= STEM_CHARS}
    return any(word[:STEM_CHARS] in stems for word in words_of(part.source))


def phrase_of(part: Part) -> str:
    """``LEARNING_RATE`` as it stands in a sentence."""
    return " ".join(words_of(part.name))


def words_of(text: str) -> list[str]:
    """Its words in small letters; underscores and digits end one."""
    return WORD.findall(text.casefold())


def value_of(node: ast.expr, known: Mapping[str, ast.expr]) -> float:
    """The number that a constant is; NaN, which equals nothing, when it is none."""
    try:
        return evaluate(node, known)
    except NotArithmetic:
        return math.nan


def old_numbers(idea: str) -> list[float]:
    """The values that the idea says are there now, each as the numbers that it may mean."""
    found: list[float] = []
    for match in NUMBER.finditer(idea):
        if OLD_VALUE.search(idea[: match.start()]):
            found += meanings_of(match)
    return found
