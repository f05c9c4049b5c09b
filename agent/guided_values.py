"""Constants in a guided edit: arithmetic for the model, and whether a new value is what the idea says."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xar_agent.agent.outline import Part

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
MAX_EXPONENT = 64  # keeps an answer such as 9**9**9 from hanging the harness
NUMBER = re.compile(r"(?<![\w.])(\d+(?:,\d{3})+|\d*\.?\d+(?:[eE][-+]?\d+)?)(\s?%|\s?percent)?(?![\w]*[A-Za-z_])")
OLD_VALUE = re.compile(
    r"(?:instead of|rather than|in place of|from|currently|not|was|than)\s+(?:the\s+)?(?:\w+\s+)?$", re.I
)
UP = re.compile(
    r"\b(increase|raise|enlarge|grow|larger|bigger|higher|more|longer|deeper|wider|stronger|faster)\b", re.I
)
DOWN = re.compile(r"\b(decrease|reduce|lower|shrink|cut|smaller|less|fewer|shorter|shallower|narrower|weaker)\b", re.I)
RELATIVE = re.compile(r"\b(by|times|factor|more|fewer|less|add|extra|additional|\w+fold|larger|smaller)\b|×", re.I)
ZERO = re.compile(r"\bzero\b", re.I)
OFF = re.compile(r"\b(turn(ed)? off|switch(ed)? off|disable|remove|drop the|without|no)\b", re.I)
FACTORS: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"\b(halve|half)\b", re.I), 0.5),
    (re.compile(r"\b(double|twice)\b", re.I), 2.0),
    (re.compile(r"\b(triple|threefold|three times)\b", re.I), 3.0),
    (re.compile(r"\b(quadruple|fourfold|four times)\b", re.I), 4.0),
    (re.compile(r"\b(quarter|a fourth)\b", re.I), 0.25),
    (re.compile(r"\b(ten times|tenfold)\b", re.I), 10.0),
    (re.compile(r"\b(a tenth|one tenth)\b", re.I), 0.1),
)


class NotArithmetic(Exception):
    """The expression is not a number, or arithmetic over known numbers."""


@dataclass(frozen=True, slots=True)
class NewValue:
    """A constant's line with its new value, or what is wrong with the answer."""

    source: str
    problem: str = ""
    doubt: str = ""
    """Worth asking about once; an answer that stays the same is taken."""


def evaluate(node: ast.expr, known: Mapping[str, ast.expr], depth: int = 8) -> float:
    """The number that an arithmetic expression over the file's constants is.

    Raises:
        NotArithmetic: it has calls, strings, unknown names, or a division by zero.
    """
    if depth == 0:
        raise NotArithmetic("constants that refer to each other")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -evaluate(node.operand, known, depth - 1)
    if isinstance(node, ast.Name) and node.id in known:
        return evaluate(known[node.id], known, depth - 1)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = evaluate(node.left, known, depth - 1), evaluate(node.right, known, depth - 1)
        if isinstance(node.op, ast.Pow) and abs(right) > MAX_EXPONENT:
            raise NotArithmetic("too large a power")
        try:
            return OPERATORS[type(node.op)](left, right)
        except (ZeroDivisionError, OverflowError) as error:
            raise NotArithmetic(str(error)) from error
    raise NotArithmetic(ast.unparse(node))


def apply_value(part: Part, answer: str, idea: str, known: Mapping[str, ast.expr]) -> NewValue:
    """The constant's line with the answer's value written as a literal, checked against the idea."""
    statement = ast.parse(part.source).body[0]
    assert isinstance(statement, ast.Assign | ast.AnnAssign)
    assert statement.value is not None
    try:
        new = ast.parse(answer.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return NewValue(part.source, f"{answer!r} is not a value")
    try:
        old_number = evaluate(statement.value, known)
    except NotArithmetic:
        return literal_value(part, statement.value, new)
    try:
        number = evaluate(new, known)
    except NotArithmetic as error:
        return NewValue(part.source, f"{error} is not a number; {part.name} is one")
    if isinstance(old_number, int):
        number = round(number)
    if number == old_number:
        stated = " and ".join(text for text, _ in stated_for_constant(idea))
        wanted = f"; the idea says {stated}" if stated else ""
        return NewValue(part.source, f"that leaves {part.name} at {old_number:g}{wanted}")
    literal = isinstance(new, ast.Constant) and isinstance(new.value, type(old_number))
    text = answer.strip() if literal else write_number(number, old_number)
    source = replace_value(part.source, statement.value, text)
    problem = value_problem(idea, old_number, number, literals(new))
    return NewValue(source, problem, "" if problem else direction_doubt(idea, old_number, number))


def literal_value(part: Part, old: ast.expr, new: ast.expr) -> NewValue:
    """A constant that is no number (a string, a tuple, a switch) keeps its type."""
    try:
        was, now = ast.literal_eval(old), ast.literal_eval(new)
    except ValueError:
        return NewValue(part.source, f"{part.name} needs a literal value")
    if type(was) is not type(now) or was == now:
        return NewValue(part.source, f"{part.name} needs another {type(was).__name__}")
    return NewValue(replace_value(part.source, old, repr(now)))


def replace_value(source: str, old: ast.expr, text: str) -> str:
    """The statement with its right-hand side replaced; the comment stays."""
    lines = source.encode().split(b"\n")  # ast counts columns in bytes
    assert old.end_lineno is not None
    head = b"\n".join([*lines[: old.lineno - 1], lines[old.lineno - 1][: old.col_offset]])
    tail = b"\n".join([lines[old.end_lineno - 1][old.end_col_offset :], *lines[old.end_lineno :]])
    return (head + text.encode() + tail).decode()


def write_number(number: float, like: float) -> str:
    """The number as a literal of the same type."""
    if isinstance(like, int):
        return str(round(number))
    text = f"{number:.10g}"
    return text if any(sign in text for sign in ".en") else f"{text}.0"


def literals(node: ast.AST) -> set[float]:
    """Every number that is written in the code."""
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return {float(value) for value in constants if isinstance(value, int | float) and not isinstance(value, bool)}


def meanings_of(match: re.Match[str]) -> tuple[float, ...]:
    """A number in a text: 2% may be 0.02 or 2."""
    number = float(match.group(1).replace(",", ""))
    return (number / 100, number) if match.group(2) else (number,)


def stated_numbers(idea: str) -> list[tuple[str, tuple[float, ...]]]:
    """The new values that the idea names, each as written and as the numbers that it may mean (2% is 2 or 0.02)."""
    found: list[tuple[str, tuple[float, ...]]] = []
    for match in NUMBER.finditer(idea):
        if OLD_VALUE.search(idea[: match.start()]):
            continue
        found.append((match.group(0).strip(), meanings_of(match)))
    return found


def stated_for_constant(idea: str) -> list[tuple[str, tuple[float, ...]]]:
    """The same, and "zero" in words: code has its own ways of saying that, a constant has not."""
    found = stated_numbers(idea)
    return found if found or not ZERO.search(idea) else [("zero", (0.0,))]


def stated_values(idea: str) -> list[str]:
    """The new values that the idea names as literals, unless they may be relative to the old value ("2 more")."""
    if RELATIVE.search(idea):
        return []
    return [f"{meaning:.10g}" for _, meanings in stated_for_constant(idea) for meaning in meanings]


def value_problem(idea: str, old: float, new: float, written: set[float]) -> str:
    """Why the new value cannot be what the idea asks for, or ""."""
    stated = stated_for_constant(idea)
    if stated:
        relative = RELATIVE.search(idea) is not None  # "add 2 layers": the number is in the arithmetic, not the result
        allowed = {*written, new} if relative else {new}
        if any(close(m, value) for value in allowed for _, meanings in stated for m in meanings):
            return ""
        return f"the idea says {' and '.join(text for text, _ in stated)}, but the new value is {new:g}"
    for pattern, factor in FACTORS:
        if pattern.search(idea):
            candidates = (old * factor, old / factor) if factor in (10.0, 3.0, 4.0) else (old * factor,)
            if not any(abs(new - c) <= 0.5 if isinstance(old, int) else close(new, c) for c in candidates):
                return f"{pattern.search(idea).group(0)!r} of {old:g} is not {new:g}"  # type: ignore[union-attr]
            return ""
    return ""


def direction_doubt(idea: str, old: float, new: float) -> str:
    """What a new value without a stated number may have got wrong: words of direction can be about something else."""
    if stated_for_constant(idea) or any(pattern.search(idea) for pattern, _ in FACTORS):
        return ""
    if OFF.search(idea):
        return "" if new == 0 else f"switched off means 0, not {new:g}"
    up, down = UP.search(idea) is not None, DOWN.search(idea) is not None
    if up != down and (new > old) != up:
        return f"the idea asks for {'more' if up else 'less'} than {old:g}, but the new value is {new:g}"
    return ""


def close(a: float, b: float) -> bool:
    """Equal but for rounding."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
