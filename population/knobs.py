"""Settings of an environment's knobs: drawn, varied, said in words, read back, and carried out without a model."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xar_agent.agent.guided_history import read_steps, refusal_of, smoke_problem
from xar_agent.agent.messages import ModelProtocol, ModelReply, ModelRequest, ToolCall
from xar_agent.envs.knobs import Knob, Value, read_constants
from xar_agent.errors import XarError

MAX_CHANGED = 3
"""Knobs that a random setting moves: with more, hardly any draw is good in all of them."""
MAX_MOVED = 2
"""Knobs that differ between a setting and its neighbour."""
SHORTEST_STEP, LONGEST_STEP = 0.1, 0.3
"""Of a number's range, on its scale: short enough to stay in a good region, long enough to show above the noise."""
DIGITS = 3
"""Significant ones of a drawn float: more would only look precise."""
MAX_DRAWS = 100

BEGINNING = "Set the knobs: "
NOTHING_SET = "Leave every knob as it is."
PART = re.compile(r"(\w+) = (\S+) \(([^()]+)\)")


class KnobMissing(XarError):
    """A file no longer has the constant that is to be set."""


@dataclass(frozen=True, slots=True)
class Setting(Mapping[str, Value]):
    """Knob name -> value. Hashable; a knob that it does not name is left as it is."""

    pairs: tuple[tuple[str, Value], ...] = ()
    """In the order of the names."""

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Setting:
        """The same values in the one canonical order."""
        return cls(tuple(sorted(values.items())))

    def __getitem__(self, name: str) -> Value:
        return dict(self.pairs)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def changed(self, knobs: Sequence[Knob]) -> Setting:
        """Without the values that are the default anyway: equal for settings that train the same program."""
        defaults = {knob.name: knob.default for knob in knobs}
        return Setting(tuple((name, value) for name, value in self.pairs if value != defaults.get(name)))


def random_setting(knobs: Sequence[Knob], rng: random.Random) -> Setting:
    """One to three knobs, each at a value other than its default. The menu must not be empty."""
    chosen = rng.sample(list(knobs), rng.randint(1, min(MAX_CHANGED, len(knobs))))
    return Setting.of({knob.name: drawn(knob, rng) for knob in chosen})


def neighbour(setting: Setting, knobs: Sequence[Knob], rng: random.Random) -> Setting:
    """The setting with one or two knobs moved a step. The menu must not be empty.

    A knob that comes back to its default is named with it: the child starts from its parent's files.
    """
    chosen = rng.sample(list(knobs), rng.randint(1, min(MAX_MOVED, len(knobs))))
    moves = {knob.name: moved(knob, setting.get(knob.name, knob.default), rng) for knob in chosen}
    return Setting.of({**setting, **moves})


def drawn(knob: Knob, rng: random.Random) -> Value:
    """Any value of the menu but the default, evenly over the scale."""
    if knob.kind == "choice":
        return rng.choice([value for value in knob.values if value != knob.default])
    for _ in range(MAX_DRAWS):
        value = number_at(knob, rng.random())
        if value != knob.default:
            return value
    return far_end(knob, knob.default)


def moved(knob: Knob, value: Value, rng: random.Random) -> Value:
    """A value a step away from this one."""
    if knob.kind == "choice":
        place = knob.values.index(value)
        return knob.values[rng.choice([i for i in (place - 1, place + 1) if 0 <= i < len(knob.values)])]
    share = share_of(knob, float(value))
    step = rng.uniform(SHORTEST_STEP, LONGEST_STEP) * rng.choice((-1, 1))
    found = number_at(knob, share + step if 0 <= share + step <= 1 else share - step)
    return found if found != value else far_end(knob, value)


def number_at(knob: Knob, share: float) -> Value:
    """The number at a share of the range, 0 to 1, rounded as it is written."""
    if knob.scale == "log":
        exact = math.exp(math.log(knob.low) + share * (math.log(knob.high) - math.log(knob.low)))
    else:
        exact = knob.low + share * (knob.high - knob.low)
    rounded = round(exact) if knob.kind == "int" else float(f"{exact:.{DIGITS}g}")
    kept = min(max(rounded, knob.low), knob.high)  # rounding may leave the range
    return int(kept) if knob.kind == "int" else float(kept)


def share_of(knob: Knob, number: float) -> float:
    """Where in its range a number lies, 0 to 1."""
    if knob.scale == "log":
        return (math.log(number) - math.log(knob.low)) / (math.log(knob.high) - math.log(knob.low))
    return (number - knob.low) / (knob.high - knob.low)


def far_end(knob: Knob, value: Value) -> Value:
    """The end of the range that this value is not: for ranges too narrow for a step."""
    end = knob.low if value == knob.high else knob.high
    return int(end) if knob.kind == "int" else end


def source_of(value: Value) -> str:
    """The value as Python source, in one canonical spelling."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def said(setting: Setting, knobs: Sequence[Knob]) -> list[tuple[Knob, Value]]:
    """Knobs and values of the setting in the order of the menu."""
    return [(knob, setting[knob.name]) for knob in knobs if knob.name in setting]


def idea_text(setting: Setting, knobs: Sequence[Knob]) -> str:
    """The one sentence that asks for this setting."""
    parts = [f"{knob.name} = {source_of(value)} ({knob.file})" for knob, value in said(setting, knobs)]
    return f"{BEGINNING}{', '.join(parts)}." if parts else NOTHING_SET


def parse_setting(text: str, knobs: Sequence[Knob]) -> Setting | None:
    """The setting whose sentence this is, but for white space around it; None for any other text."""
    sentence = text.strip()
    menu = {knob.name: knob for knob in knobs}
    values: dict[str, Value] = {}
    for part in [] if sentence == NOTHING_SET else sentence.removeprefix(BEGINNING).removesuffix(".").split(", "):
        words = PART.fullmatch(part)
        if words is None or words[1] not in menu:
            return None
        constant = read_literal(words[2])
        value = menu[words[1]].value_of(constant)
        if value is None:
            return None
        values[words[1]] = value
    setting = Setting.of(values)
    return setting if idea_text(setting, knobs) == sentence else None


def read_literal(source: str) -> object:
    """The value of one literal; None when it is none."""
    try:
        found = read_constants(f"x = {source}").get("x")
    except (SyntaxError, ValueError):  # ValueError: a NUL character
        return None
    return found.value if found is not None else None


def setting_of_tree(texts: Mapping[str, str], knobs: Sequence[Knob]) -> Setting:
    """The knobs that differ from their defaults in these files; one at a value off the menu does not count."""
    values: dict[str, Value] = {}
    for knob in knobs:
        try:
            constant = read_constants(texts.get(knob.file, "")).get(knob.name)
        except (SyntaxError, ValueError):
            continue
        value = knob.value_of(constant.value) if constant is not None else None
        if value is not None and value != knob.default:
            values[knob.name] = value
    return Setting.of(values)


def edits(setting: Setting, knobs: Sequence[Knob], texts: Mapping[str, str]) -> tuple[ToolCall, ...]:
    """One ``edit_file`` a constant that does not have its value yet, to be made in this order.

    Raises:
        KnobMissing: a file has no such constant, or is no Python.
    """
    now = dict(texts)
    calls = []
    for knob, value in said(setting, knobs):
        text = now.get(knob.file, "")
        try:
            constant = read_constants(text)[knob.name]
        except (KeyError, SyntaxError, ValueError) as error:
            raise KnobMissing(f"{knob.file} has no constant {knob.name} that could be set") from error
        if knob.value_of(constant.value) == value:
            continue
        first, last = lines_around(text, constant.start, constant.end)
        old = text[first:last]
        new = text[first : constant.start] + source_of(value) + text[constant.end : last]
        now[knob.file] = text[:first] + new + text[last:]
        calls.append(call("edit_file", path=knob.file, old_str=old, new_str=new))
    return tuple(calls)


def lines_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Range of whole lines about a place, with so many lines above (or below) it that they occur once in the text."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    last = len(text) if last < 0 else last
    while text.find(text[first:last]) != first or text.find(text[first:last], first + 1) >= 0:
        if first > 0:
            first = text.rfind("\n", 0, first - 1) + 1
        else:
            after = text.find("\n", last + 1)
            last = len(text) if after < 0 else after
    return first, last


def scripted_replies(setting: Setting, knobs: Sequence[Knob], texts: Mapping[str, str]) -> list[Sequence[ToolCall]]:
    """What an agent does who carries the setting out on these files: the edits in one reply, a smoke test, submission.

    Raises:
        KnobMissing: a file has no such constant.
    """
    made = edits(setting, knobs, texts)
    return [*([made] if made else []), [call("smoke_test")], [submission(setting, knobs)]]


def submission(setting: Setting, knobs: Sequence[Knob]) -> ToolCall:
    """The call that hands the setting in."""
    words = ", ".join(f"{knob.name} = {source_of(value)}" for knob, value in said(setting, knobs))
    return call("submit_run", message=words or NOTHING_SET)


def call(name: str, **arguments: str) -> ToolCall:
    """A tool call; the loop gives it its id."""
    return ToolCall("", name, json.dumps(arguments))


class KnobModel:
    """A ``ChatModel`` that carries out ideas of ``idea_text`` and nothing else, in the ordinary episode, for nothing.

    Where an episode stands it reads from the request, so one that is resumed goes on in the middle.
    """

    name = "knobs"
    protocol: ModelProtocol = "scripted"

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._knobs = tuple(knobs)
        self._setting: Setting | None = None
        self._files: dict[str, str] = {}

    def begin(self, idea_text: str, files: Mapping[str, str]) -> None:
        """Take the idea and the editable files as they are now."""
        self._setting = parse_setting(idea_text, self._knobs)
        self._files = dict(files)

    def complete(self, request: ModelRequest) -> ModelReply:
        """The next calls; words when there is no way on."""
        if self._setting is None:
            return free("This idea is no setting of the environment's knobs.")
        try:
            return self._next(self._setting, request)
        except KnobMissing as error:
            return free(error.message)

    def _next(self, setting: Setting, request: ModelRequest) -> ModelReply:
        """What follows on the last result."""
        steps = read_steps(request.messages)
        refusals = [problem for step in steps if (problem := refusal_of(step.result))]
        if refusals:
            return free(refusals[-1])
        if not steps:
            return free("", *scripted_replies(setting, self._knobs, self._files)[0])
        if steps[-1].name == "edit_file":
            return free("", call("smoke_test"))
        problem = smoke_problem(steps[-1].result, {}) if steps[-1].name == "smoke_test" else ""
        if problem:
            return free(f"The setting does not pass the smoke test: {problem}")
        return free("", submission(setting, self._knobs))  # again after a crash of the full run: nothing to mend

    def close(self) -> None:
        """Nothing to free."""


def free(text: str, *calls: ToolCall) -> ModelReply:
    """A reply that costs nothing."""
    reason = "tool_calls" if calls else "stop"
    return ModelReply(text, calls, reason, cost_usd=0.0, cost_source="scripted")
