"""The ideator's prompts as models get them: a change must be meant, and the golden text shows it in review."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from proposing import BASELINE, ENV, EXPLORE, FILES, SEED, tried

from xar_agent import prompts
from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import read_knobs
from xar_agent.jobs.types import FailureClass
from xar_agent.population.idea_context import ROOMY, TIGHT, Room, Scene, ask_text, system_text
from xar_agent.population.types import Outcome, Slot

GOLDEN = Path(__file__).parent / "golden"
PARENT = tried("Use <b>GELU</b> & raise LEARNING_RATE to 3.", 0.25, diff="--- a/model.py\n+++ b/model.py\n+{{ x }}\n")
OUTCOMES = (
    tried("Small win", 0.0625),
    tried("Too large a step", failure=FailureClass.NAN, reason="loss is nan\nat step 3"),
    PARENT,
    tried("A step back", -0.5),
    tried("Nothing was submitted", failure=None, reason="the model gave up"),
    tried("Bigger win", 0.125, same_as="abc"),
)
COMING = (Idea("On its way", "toy"),)


def scene(outcomes: Sequence[Outcome] = OUTCOMES) -> Scene:
    return Scene(ENV, "default", BASELINE, FILES, outcomes, read_knobs(ENV))


def asked(room: Room, slot: Slot, outcomes: Sequence[Outcome] = OUTCOMES, coming: Sequence[Idea] = COMING) -> str:
    return ask_text(scene(outcomes), room, slot, 3, coming, random.Random(0))


EXPLOIT = Slot("exploit", (PARENT.idea.id,))
RENDERED = {
    "system": lambda: system_text(scene(), ROOMY),
    "system_small": lambda: system_text(scene(), TIGHT),
    "first": lambda: asked(ROOMY, SEED, (), ()),
    "explore": lambda: asked(ROOMY, EXPLORE),
    "exploit": lambda: asked(ROOMY, EXPLOIT),
    "exploit_small": lambda: ask_text(scene(), TIGHT, EXPLOIT, 2, COMING, random.Random(0)),
    "repair": lambda: prompts.render("ideate_repair", problem="it was empty.", n=2),
    "again": lambda: prompts.render("ideate_again", n=1, near=[{"text": "new", "like": "old"}]),
    "more": lambda: prompts.render("ideate_again", n=2, near=[]),
}


@pytest.mark.parametrize("name", RENDERED)
def test_a_prompt_is_the_golden_one(name: str) -> None:
    assert RENDERED[name]() == (GOLDEN / f"ideate_{name}.txt").read_text()


def test_winners_come_best_first_and_failures_latest_first_with_class_and_reason() -> None:
    text = asked(ROOMY, EXPLORE)
    order = [PARENT.idea.text, "Bigger win", "Small win", "Nothing was submitted", "Too large a step", "A step back"]
    assert sorted(order, key=text.index) == order
    assert "[failed, NAN: loss is nan at step 3] Too large a step" in text
    assert "[no result: the model gave up]" in text


def test_what_a_program_said_while_it_was_scored_goes_into_no_prompt() -> None:
    heard = "shape: the model failed on 64 rows of 64 tokens: ValueError: held-out words"
    quoted = (
        "recitation: the patch carries text of the validation split: 240 letters, first in a.py:1: 'held-out words'"
    )
    outcomes = [
        tried("Raises", failure=FailureClass.CONTRACT, reason=heard),
        tried("Recites", failure=FailureClass.INVALID, reason=quoted),
        tried("Crashes", failure=FailureClass.CODE, reason="ValueError: a: b: c"),
    ]
    text = asked(ROOMY, EXPLORE, outcomes, ())
    assert "held-out words" not in text
    assert "failed, CONTRACT: shape: the model failed on 64 rows of 64 tokens" in text
    assert "failed, INVALID: recitation: the patch carries text of the validation split" in text
    assert "failed, CODE: ValueError: a: b: c" in text


def test_a_child_sees_its_parents_text_score_and_diff_and_the_other_winners() -> None:
    text = asked(ROOMY, EXPLOIT)
    assert text.count(PARENT.idea.text) == 1
    assert "Result: val_loss 2.2500, 0.2500 better" in text
    assert "+++ b/model.py\n+{{ x }}" in text
    assert "Bigger win" in text


def test_the_second_parent_is_said_to_be_not_applied() -> None:
    text = asked(ROOMY, Slot("exploit", (PARENT.idea.id, OUTCOMES[0].idea.id)))
    assert (
        text.index("already applied") < text.index(PARENT.idea.text) < text.index("not applied") < text.index("Small")
    )


@pytest.mark.parametrize("room", [ROOMY, TIGHT])
@pytest.mark.parametrize("slot", [SEED, EXPLORE, EXPLOIT])
def test_a_prompt_keeps_its_size_however_much_was_tried(room: Room, slot: Slot) -> None:
    long = "word " * 2000
    many = [PARENT, *(tried(f"{n} {long}", (-1) ** n * 0.1) for n in range(300))]
    many += [tried(f"{n} {long}", reason=long, diff=long) for n in range(300)]
    text = asked(room, slot, many, [Idea(f"{n} {long}", "toy") for n in range(300)])
    assert len(text) < 2 * room.tried + room.parent + room.diff + 4 * room.idea + 1500
    for heading in ("Better than", "Without a valid result", "more were tried and are not listed", "on their way"):
        assert heading in text


def test_files_that_are_too_long_are_shown_in_outline() -> None:
    room = Room(ideas=1, code=10, outline=200, tried=0, idea=100, parent=0, diff=0)
    text = system_text(scene(), room)
    assert "- train.py:LEARNING_RATE | LEARNING_RATE = 1.0 # peak" in text
    assert "- train.py:train | def train(model): All steps." in text
    assert "model.step()" not in text


def test_a_small_model_is_given_a_place_for_each_idea_with_the_menus_range() -> None:
    text = ask_text(scene(), TIGHT, EXPLORE, 2, (), random.Random(0))
    assert ". train.py: LEARNING_RATE = 1.0 # peak -> from 0.3 to 6\n" in text
    assert ". model.py: ORDER = 2 -> one of 1, 3\n" in text
    assert "these places" not in ask_text(scene(), ROOMY, EXPLORE, 2, (), random.Random(0))
