"""Ideas without a language model: chance over the environment's knob menu."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import Knob
from xar_agent.errors import ConfigError, XarError
from xar_agent.population.knobs import (
    Setting,
    idea_text,
    neighbour,
    parse_setting,
    random_setting,
    setting_of_tree,
)
from xar_agent.population.types import Slot

if TYPE_CHECKING:
    from xar_agent.population.ideation import Call

MAX_DRAWS = 200
"""Of a place, before the search for an untried setting goes on step by step from the last one."""
MAX_STEPS = 2_000

TextsOf = Callable[[str], Mapping[str, str]]
"""Idea id -> path -> text of each editable file after its patch."""


class MenuExhausted(XarError):
    """Every setting that could be found was handed out before."""


def propose_knobs(call: Call, knobs: Sequence[Knob], texts_of: TextsOf, *, env: str) -> tuple[Idea, ...]:
    """One idea a slot, in their order: a random setting, or a neighbour of the first parent's.

    No setting is handed out twice, nor the default, which is the baseline. The same call gives the same ideas.

    Raises:
        ConfigError: the environment declares no knobs.
        MenuExhausted: there is no untried setting left.
    """
    if not knobs:
        raise ConfigError(f"environment {env!r} declares no knobs", "write its knobs.toml, or choose another policy")
    rng = random.Random(f"{call.rng_seed} {call.number}")
    known = [*(outcome.idea for outcome in call.outcomes), *call.pending]
    tried = {Setting(), *(tried_setting(idea.text, knobs) for idea in known)}
    ideas = []
    for slot in call.slots:
        setting = untried_setting(slot, knobs, texts_of, tried, rng)
        tried.add(setting.changed(knobs))
        ideas.append(Idea(idea_text(setting, knobs), env, slot.parents, slot.origin, call.epoch))
    return tuple(ideas)


def tried_setting(text: str, knobs: Sequence[Knob]) -> Setting:
    """What an idea sets; nothing when it is about something else."""
    setting = parse_setting(text, knobs)
    return setting.changed(knobs) if setting is not None else Setting()


def untried_setting(
    slot: Slot, knobs: Sequence[Knob], texts_of: TextsOf, tried: set[Setting], rng: random.Random
) -> Setting:
    """A setting for this place that nobody has had.

    Raises:
        MenuExhausted: none was found.
    """
    parent = setting_of_tree(texts_of(slot.parents[0]), knobs) if slot.parents else None
    setting = Setting()
    for attempt in range(MAX_DRAWS + MAX_STEPS):
        if attempt >= MAX_DRAWS:
            setting = neighbour(setting, knobs, rng)
        elif parent is not None:
            setting = neighbour(parent, knobs, rng)
        else:
            setting = random_setting(knobs, rng)
        if setting.changed(knobs) not in tried:
            return setting
    hint = "the search can end here; a menu with more values, or another policy, has more ideas"
    raise MenuExhausted(f"no untried setting of the knobs is left after {len(tried) - 1}", hint)
