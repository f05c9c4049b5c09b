"""Ideas from the knob menu: one a place, each new, the same again for the same call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import Knob, read_knobs
from xar_agent.envs.spec import load_env
from xar_agent.errors import ConfigError
from xar_agent.population.ideation import Call
from xar_agent.population.knobs import Setting, idea_text, parse_setting
from xar_agent.population.proposals import MenuExhausted, propose_knobs
from xar_agent.population.types import Outcome, Slot

KNOBS = read_knobs(load_env("toy"))
SEED, EXPLORE, EXPLOIT = Slot("seed"), Slot("explore"), Slot("exploit", ("parent",))
PARENT_TEXTS = {"train.py": "BATCH_SIZE = 4\nLEARNING_RATE = 2.5\n", "model.py": "ORDER = 3\n"}
TWO_KNOBS = (
    Knob("BATCH_SIZE", "train.py", "choice", "linear", 0.0, 0.0, (4, 8), 8),
    Knob("ORDER", "model.py", "int", "linear", 1.0, 3.0, (), 2),
)


def ask(
    *slots: Slot, number: int = 0, outcomes: Sequence[Outcome] = (), pending: Sequence[Idea] = (), seed: str = "7"
) -> Call:
    """A call for ideas on these places."""
    return Call(number, 2, slots, outcomes, pending, Path("ideate"), seed)


def texts_of(idea_id: str) -> Mapping[str, str]:
    """The files of the one parent."""
    assert idea_id == "parent"
    return PARENT_TEXTS


def setting(idea: Idea, knobs: Sequence[Knob] = KNOBS) -> Setting:
    """What the idea sets, which must be readable."""
    found = parse_setting(idea.text, knobs)
    assert found is not None
    return found


def test_each_place_gets_one_idea_with_its_origin_parents_and_epoch() -> None:
    ideas = propose_knobs(ask(SEED, EXPLOIT, EXPLORE), KNOBS, texts_of, env="toy")
    assert [(i.env, i.origin, i.parents, i.epoch) for i in ideas] == [
        ("toy", "seed", (), 2),
        ("toy", "exploit", ("parent",), 2),
        ("toy", "explore", (), 2),
    ]
    assert all(1 <= len(setting(idea)) <= 3 for idea in (ideas[0], ideas[2]))


def test_a_child_is_its_parent_with_one_or_two_knobs_moved() -> None:
    parent = {"BATCH_SIZE": 4, "LEARNING_RATE": 2.5, "ORDER": 3}
    defaults = {knob.name: knob.default for knob in KNOBS}
    for idea in propose_knobs(ask(*[EXPLOIT] * 20), KNOBS, texts_of, env="toy"):
        now = {**defaults, **setting(idea)}
        assert 1 <= sum(now[name] != {**defaults, **parent}[name] for name in defaults) <= 2


def test_the_same_call_gives_the_same_ideas_and_another_number_or_seed_others() -> None:
    first = propose_knobs(ask(SEED, EXPLOIT), KNOBS, texts_of, env="toy")
    assert propose_knobs(ask(SEED, EXPLOIT), KNOBS, texts_of, env="toy") == first
    assert propose_knobs(ask(SEED, EXPLOIT, number=1), KNOBS, texts_of, env="toy") != first
    assert propose_knobs(ask(SEED, EXPLOIT, seed="8"), KNOBS, texts_of, env="toy") != first


def test_a_small_menu_is_handed_out_to_the_last_setting_and_none_twice() -> None:
    done = [
        Outcome(Idea(idea_text(Setting.of({"ORDER": 3}), TWO_KNOBS), "toy")),
        Outcome(Idea("Use a cosine schedule.", "toy")),
    ]
    at_work = [Idea(idea_text(Setting.of({"BATCH_SIZE": 4, "ORDER": 2}), TWO_KNOBS), "toy", ("other",))]
    call = ask(SEED, EXPLOIT, EXPLORE, outcomes=done, pending=at_work)
    found = {
        setting(idea, TWO_KNOBS).changed(TWO_KNOBS) for idea in propose_knobs(call, TWO_KNOBS, texts_of, env="toy")
    }
    wanted = ({"ORDER": 1}, {"BATCH_SIZE": 4, "ORDER": 1}, {"BATCH_SIZE": 4, "ORDER": 3})
    assert found == {Setting.of(values) for values in wanted}, "the default is the baseline: never an idea"
    with pytest.raises(MenuExhausted, match="after 5"):
        propose_knobs(ask(*[SEED] * 4, outcomes=done, pending=at_work), TWO_KNOBS, texts_of, env="toy")


def test_settings_of_more_knobs_come_once_those_of_few_are_used_up() -> None:
    knobs = [Knob(f"K{i}", "train.py", "choice", "linear", 0.0, 0.0, (0, 1), 0) for i in range(5)]
    ideas = propose_knobs(ask(*[SEED] * 31), knobs, texts_of, env="toy")
    assert len({setting(idea, knobs).changed(knobs) for idea in ideas}) == 31


def test_an_environment_without_knobs_is_an_error_of_the_user() -> None:
    with pytest.raises(ConfigError, match="'toy' declares no knobs"):
        propose_knobs(ask(SEED), (), texts_of, env="toy")
