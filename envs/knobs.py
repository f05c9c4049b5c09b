"""The knob menu of an environment: which constants of its repository a search may turn without a language model.

``knobs.toml`` lies beside ``env.toml`` and is no part of the environment's version: a menu changes what is tried, never
what a score means.
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from xar_agent.envs.globs import matches
from xar_agent.envs.spec import EnvSpec, Strict
from xar_agent.errors import ConfigError

FILE_NAME = "knobs.toml"
PLAIN_WORD = re.compile(r"[A-Za-z0-9_.+-]+")
PLAIN_PATH = re.compile(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")
"""Texts that a sentence about a setting can hold and still be read back."""

Value = bool | int | float | str
Kind = Literal["float", "int", "choice"]
Scale = Literal["log", "linear"]


class KnobEntry(Strict):
    """The keys of one table of ``knobs.toml``; the table's name is the constant's."""

    file: str
    kind: Kind
    scale: Scale = "linear"
    low: int | float | None = None
    high: int | float | None = None
    values: list[bool | int | float | str] | None = None


@dataclass(frozen=True, slots=True)
class Knob:
    """One module-level constant and the values that it may take."""

    name: str
    file: str
    """Relative to the repository."""
    kind: Kind
    scale: Scale
    """How a number is drawn and stepped; unused by a choice."""
    low: float
    high: float
    """Both included; unused by a choice."""
    values: tuple[Value, ...]
    """Of a choice, neighbours beside each other; empty for a number."""
    default: Value
    """What the environment's own source says, or the preset that it is bound to instead."""

    def value_of(self, literal: object) -> Value | None:
        """What a literal in the source means for this knob; None when the menu does not offer it."""
        if self.kind == "choice":
            return next((v for v in self.values if type(v) is type(literal) and v == literal), None)
        if isinstance(literal, bool) or not isinstance(literal, int | float):
            return None
        if not self.low <= literal <= self.high or (self.kind == "int" and not isinstance(literal, int)):
            return None
        return float(literal) if self.kind == "float" else literal


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal that is bound to a name at the top level of a module."""

    value: object
    start: int
    end: int
    """Range of the literal in the source, in characters."""


def read_constants(source: str) -> dict[str, Constant]:
    """Name -> its last literal at the top level of the module.

    Raises:
        SyntaxError: this is no Python.
    """
    lines = source.split("\n")
    found: dict[str, Constant] = {}
    try:
        module = ast.parse(source)
    except (RecursionError, MemoryError) as error:  # nested too deeply for the parser: an idea's text may be
        raise SyntaxError("nested too deeply") from error
    for node in module.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name):
            try:
                literal = ast.literal_eval(value)
            except (ValueError, TypeError, RecursionError, MemoryError):  # TypeError: an unhashable key or member
                found.pop(target.id, None)
                continue
            start = offset_in(lines, value.lineno, value.col_offset)
            end = offset_in(lines, value.end_lineno or value.lineno, value.end_col_offset or 0)
            found[target.id] = Constant(literal, start, end)
    return found


def with_constants(source: str, literals: Mapping[str, bool | int | float | str], *, file: str = "source") -> str:
    """The source with other literals bound to these names at its top level; nothing else of it changes.

    Args:
        source: of a module.
        literals: name -> what it is to be.
        file: what a message calls the source.

    Raises:
        ConfigError: a name has no literal there, or the source is no Python.
    """
    try:
        constants = read_constants(source)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        raise ConfigError(f"{file} cannot be read as Python: {error}") from error
    if missing := [name for name in literals if name not in constants]:
        raise ConfigError(f"{file} has no line {missing[0]} = <literal> at its top level")
    for name in sorted(literals, key=lambda name: constants[name].start, reverse=True):
        source = source[: constants[name].start] + repr(literals[name]) + source[constants[name].end :]
    return source


def offset_in(lines: list[str], line: int, column: int) -> int:
    """Characters before a place that ``ast`` counts in lines from 1 and in UTF-8 bytes."""
    before = sum(len(text) + 1 for text in lines[: line - 1])
    return before + len(lines[line - 1].encode()[:column].decode())


def read_knobs(env: EnvSpec) -> tuple[Knob, ...]:
    """The environment's menu in the order of the file; empty when it declares none.

    Where the environment is bound to a preset (``EnvSpec.at``), its constants are the defaults, and a knob is left out
    that does not offer them: a menu is made for some sizes.

    Raises:
        ConfigError: the menu does not fit itself or the repository; the message names file and key.
    """
    path = env.folder / FILE_NAME
    if not path.is_file():
        return ()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    knobs = (read_knob(env, path, name, table) for name, table in tables.items())
    return tuple(known for knob in knobs if (known := at_preset(knob, env.constants.get(knob.file, {}))) is not None)


def at_preset(knob: Knob, literals: Mapping[str, Value]) -> Knob | None:
    """The knob with a preset's literal as its default; None where it does not offer that."""
    if knob.name not in literals:
        return knob
    default = knob.value_of(literals[knob.name])
    return None if default is None else replace(knob, default=default)


def read_knob(env: EnvSpec, path: Path, name: str, table: object) -> Knob:
    """One table of the menu."""
    try:
        entry = KnobEntry.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *map(str, first["loc"])])
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error
    try:
        check_range(entry)
        return knob_of(env, name, entry)
    except ValueError as error:
        raise ConfigError(f"{path}: {name}.{error}") from None


def check_range(entry: KnobEntry) -> None:
    """Refuse values that are no menu.

    Raises:
        ValueError: the key and what is wrong with it.
    """
    if entry.kind == "choice":
        if entry.low is not None or entry.high is not None:
            raise ValueError("low, high: a choice has values instead")
        check_values(entry.values or [])
        return
    if entry.values is not None:
        raise ValueError(f"values: kind {entry.kind!r} has low and high instead")
    if entry.low is None or entry.high is None:
        raise ValueError(f"{'low' if entry.low is None else 'high'}: is missing")
    if not (math.isfinite(entry.low) and math.isfinite(entry.high) and entry.low < entry.high):
        raise ValueError(f"low: {entry.low} is not below high = {entry.high}")
    if entry.scale == "log" and entry.low <= 0:
        raise ValueError(f"low: {entry.low} has no logarithm; use scale = 'linear'")
    if entry.kind == "int" and not (isinstance(entry.low, int) and isinstance(entry.high, int)):
        raise ValueError("low: kind 'int' needs whole numbers")


def check_values(values: list[Value]) -> None:
    """Refuse the values of a choice that leave nothing to choose or cannot be told apart.

    Raises:
        ValueError: the key and what is wrong with it.
    """
    if len(values) < 2:
        raise ValueError("values: a choice needs at least two")
    if len(set(values)) < len(values):
        raise ValueError("values: two of them are equal")
    for value in values:
        if isinstance(value, str) and not PLAIN_WORD.fullmatch(value):
            raise ValueError(f"values: {value!r} is not a plain word")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"values: {value} is not finite")


def knob_of(env: EnvSpec, name: str, entry: KnobEntry) -> Knob:
    """The entry with its default from the repository.

    Raises:
        ValueError: the key, and what in the repository it does not fit.
    """
    rules = env.file
    if not PLAIN_PATH.fullmatch(entry.file):
        raise ValueError(f"file: {entry.file!r} is not a plain relative path")
    if not matches(entry.file, rules.editable) or matches(entry.file, rules.protected):
        raise ValueError(f"file: {entry.file} is not editable in environment {env.name!r}")
    try:
        constants = read_constants((env.repo / entry.file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"file: the repository has no {entry.file}") from None
    except (SyntaxError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"file: {entry.file} cannot be read as Python: {error}") from None
    if name not in constants:
        raise ValueError(f"file: {entry.file} has no line {name} = <literal> at its top level")
    low, high = float(entry.low or 0), float(entry.high or 0)
    literal = constants[name].value
    knob = Knob(name, entry.file, entry.kind, entry.scale, low, high, tuple(entry.values or ()), default=0)
    default = knob.value_of(literal)
    if default is None:
        offered = (
            f"one of {entry.values}" if entry.kind == "choice" else f"{entry.kind} from {entry.low} to {entry.high}"
        )
        raise ValueError(
            f"{'values' if entry.kind == 'choice' else 'low'}: {literal!r} in {entry.file} is not {offered}"
        )
    return Knob(name, entry.file, entry.kind, entry.scale, low, high, knob.values, default)
