"""Settings of knobs: drawn within the menu, said and read back exactly, found in files, and set there."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xar_agent.envs.knobs import Knob, Scale, read_knobs
from xar_agent.envs.spec import load_env
from xar_agent.population.knobs import (
    KnobMissing,
    Setting,
    edits,
    idea_text,
    neighbour,
    parse_setting,
    random_setting,
    scripted_replies,
    setting_of_tree,
    source_of,
)

TOY = load_env("toy")
KNOBS = read_knobs(TOY)
BASE = {path: (TOY.repo / path).read_text() for path in ("model.py", "train.py")}
WORDS = st.text("abcXYZ019_.+-", min_size=1, max_size=8)
SCALES: tuple[Scale, ...] = ("log", "linear")
short_floats = st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.3g}"))


@st.composite
def choices(draw: st.DrawFn, name: str) -> Knob:
    """A knob with a list of values."""
    kinds = st.integers() | short_floats | WORDS
    values = tuple(draw(st.lists(kinds, min_size=2, max_size=5, unique=True)))
    return Knob(name, "a.py", "choice", "linear", 0.0, 0.0, values, draw(st.sampled_from(values)))


@st.composite
def numbers(draw: st.DrawFn, name: str) -> Knob:
    """A knob with a range."""
    scale: Scale = draw(st.sampled_from(SCALES))
    if draw(st.booleans()):
        first, last = sorted(draw(st.lists(st.integers(1, 5000), min_size=2, max_size=2, unique=True)))
        return Knob(name, "b.py", "int", scale, first, last, (), first)
    bounds = st.floats(1e-9, 1e6).map(lambda x: float(f"{x:.3g}")) if scale == "log" else short_floats
    low, high = sorted(draw(st.lists(bounds, min_size=2, max_size=2, unique=True)))
    return Knob(name, "b.py", "float", scale, low, high, (), high)


@st.composite
def menus(draw: st.DrawFn) -> tuple[Knob, ...]:
    """One to five knobs of any kind."""
    names = [f"K{i}" for i in range(draw(st.integers(1, 5)))]
    return tuple(draw(choices(name) | numbers(name)) for name in names)


def sources(knobs: tuple[Knob, ...]) -> dict[str, str]:
    """Files in which each knob has its default."""
    texts = {"a.py": "import os\n", "b.py": '"""Text."""\n'}
    for knob in knobs:
        texts[knob.file] += f"{knob.name} = {source_of(knob.default)}  # of {knob.name} = 1\nMY_{knob.name} = 0\n"
    return texts


def after(setting: Setting, knobs: tuple[Knob, ...], texts: Mapping[str, str]) -> dict[str, str]:
    """The files once the edits are made, each of which must mean exactly one place."""
    now = dict(texts)
    for made in edits(setting, knobs, texts):
        edit = json.loads(made.arguments)
        assert now[edit["path"]].count(edit["old_str"]) == 1
        now[edit["path"]] = now[edit["path"]].replace(edit["old_str"], edit["new_str"])
    return now


@settings(max_examples=40, deadline=None)
@given(menus(), st.randoms(use_true_random=False))
def test_a_random_setting_moves_one_to_three_knobs_within_the_menu(knobs: tuple[Knob, ...], rng: random.Random) -> None:
    setting = random_setting(knobs, rng)
    menu = {knob.name: knob for knob in knobs}
    assert 1 <= len(setting) <= 3
    for name, value in setting.items():
        assert menu[name].value_of(value) == value != menu[name].default
    assert setting.changed(knobs) == setting


@settings(max_examples=40, deadline=None)
@given(menus(), st.randoms(use_true_random=False))
def test_a_neighbour_differs_in_one_or_two_knobs_and_keeps_the_rest(
    knobs: tuple[Knob, ...], rng: random.Random
) -> None:
    menu = {knob.name: knob for knob in knobs}
    parent = random_setting(knobs, rng)
    for _ in range(5):
        child = neighbour(parent, knobs, rng)
        moved = [n for n, k in menu.items() if child.get(n, k.default) != parent.get(n, k.default)]
        assert 1 <= len(moved) <= 2
        assert all(menu[name].value_of(value) == value for name, value in child.items())
        assert set(parent) <= set(child), "also a knob that comes back to its default: the child starts from its parent"
        parent = child


@settings(max_examples=40, deadline=None)
@given(menus(), st.randoms(use_true_random=False), st.text(max_size=3))
def test_a_sentence_is_read_back_exactly_and_no_other_text_is(
    knobs: tuple[Knob, ...], rng: random.Random, extra: str
) -> None:
    for setting in (random_setting(knobs, rng), neighbour(random_setting(knobs, rng), knobs, rng), Setting()):
        text = idea_text(setting, knobs)
        assert parse_setting(text, knobs) == setting
        assert parse_setting(f"{text}{extra}", knobs) == (None if extra.strip() else setting)
        place = rng.randrange(len(text))
        found = parse_setting(text[:place] + text[place + 1 :], knobs)
        assert found is None or idea_text(found, knobs) == text[:place] + text[place + 1 :]
    assert parse_setting(extra, knobs) is None


@settings(max_examples=40, deadline=None)
@given(menus(), st.randoms(use_true_random=False))
def test_the_files_say_the_setting_once_the_edits_are_made(knobs: tuple[Knob, ...], rng: random.Random) -> None:
    texts = sources(knobs)
    parent = random_setting(knobs, rng)
    files = after(parent, knobs, texts)
    assert setting_of_tree(files, knobs) == parent
    child = neighbour(parent, knobs, rng)
    assert setting_of_tree(after(child, knobs, files), knobs) == child.changed(knobs)
    assert after(child, knobs, files) == after(child, knobs, texts), (
        "the sentence stands alone, whatever it starts from"
    )
    assert edits(child, knobs, after(child, knobs, files)) == ()


def test_drawn_floats_have_three_digits_and_spread_over_the_scale() -> None:
    rng = random.Random(3)
    (rate,) = [knob for knob in KNOBS if knob.name == "LEARNING_RATE"]
    drawn = [float(random_setting([rate], rng)["LEARNING_RATE"]) for _ in range(400)]
    assert all(x == float(f"{x:.3g}") for x in drawn)
    below_middle = sum(x < (rate.low * rate.high) ** 0.5 for x in drawn)
    assert 150 < below_middle < 250, "half of a log scale lies below the geometric mean"


def test_the_sentence_names_value_and_file_in_the_order_of_the_menu() -> None:
    setting = Setting.of({"ORDER": 3, "LEARNING_RATE": 3e-05 * 1e5, "BATCH_SIZE": 16})
    text = "Set the knobs: BATCH_SIZE = 16 (train.py), LEARNING_RATE = 3.0 (train.py), ORDER = 3 (model.py)."
    assert idea_text(setting, KNOBS) == text
    for other in (
        text.replace("16", "17"),
        text.replace("3.0", "3.00"),
        text.replace("(model.py)", "(train.py)"),
        text.replace("ORDER", "DEPTH"),
        "Set the knobs: ORDER = 3 (model.py), BATCH_SIZE = 16 (train.py).",
        "Set the knobs: .",
        "Set the learning rate to 3.",
    ):
        assert parse_setting(other, KNOBS) is None


def test_an_edit_changes_the_value_and_keeps_the_comment() -> None:
    (edit,) = edits(Setting.of({"BATCH_SIZE": 16}), KNOBS, BASE)
    assert json.loads(edit.arguments) == {
        "path": "train.py",
        "old_str": "BATCH_SIZE = 8  # rows a step",
        "new_str": "BATCH_SIZE = 16  # rows a step",
    }


def test_a_tree_that_left_the_menu_counts_as_the_default_and_one_without_the_constant_is_named() -> None:
    texts = {"train.py": "BATCH_SIZE = 5\nLEARNING_RATE = 2\n", "model.py": "ORDER = ("}
    assert dict(setting_of_tree(texts, KNOBS)) == {"LEARNING_RATE": 2.0}
    with pytest.raises(KnobMissing, match="model.py has no constant ORDER"):
        scripted_replies(Setting.of({"ORDER": 3}), KNOBS, texts)


@pytest.mark.parametrize("literal", ["-" * 3900 + "1", "-" * 19_000 + "1", "1+" * 9000 + "1", "{[]}", "{[]:1}"])
def test_a_literal_that_python_cannot_take_is_no_setting_and_no_constant(literal: str) -> None:
    assert parse_setting(f"Set the knobs: LEARNING_RATE = {literal} (train.py).", KNOBS) is None
    assert setting_of_tree({**BASE, "train.py": f"LEARNING_RATE = {literal}\n"}, KNOBS) == Setting()
