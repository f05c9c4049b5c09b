"""Constants in a guided edit."""

from __future__ import annotations

import pytest

from xar_agent.agent.guided_meant import meant_instead
from xar_agent.agent.guided_values import NewValue, apply_value, stated_numbers, stated_values
from xar_agent.agent.outline import assigned_expressions, outline

FILE = """ROWS = 32  # a step
RATE = 3e-3
DECAY = 0.1  # on matrices
DEPTH = 4
WIDTH = DEPTH * 16
KIND = "cosine"
"""


def changed(name: str, answer: str, idea: str) -> NewValue:
    part = next(part for part in outline("fit.py", FILE) if part.name == name)
    return apply_value(part, answer, idea, assigned_expressions(FILE))


@pytest.mark.parametrize(
    ("name", "answer", "idea", "line"),
    [
        ("ROWS", "8", "Use batches of 8 rows instead of 32.", "ROWS = 8  # a step"),
        ("ROWS", "ROWS // 2", "Halve the batch size.", "ROWS = 16  # a step"),
        ("ROWS", "8.0", "Use batches of 8 rows.", "ROWS = 8  # a step"),
        ("RATE", "6e-3", "Use a peak rate of 6e-3.", "RATE = 6e-3"),
        ("RATE", "RATE * 2", "Double the learning rate.", "RATE = 0.006"),
        ("DECAY", "0", "Turn weight decay off.", "DECAY = 0.0  # on matrices"),
        ("DECAY", "0.02", "Set the decay to 2%.", "DECAY = 0.02  # on matrices"),
        ("DEPTH", "DEPTH + 2", "Add 2 layers.", "DEPTH = 6"),
        ("WIDTH", "128", "Make it 128 wide.", "WIDTH = 128"),
        ("KIND", "'linear'", "Use the linear kind.", "KIND = 'linear'"),
    ],
)
def test_arithmetic_becomes_a_literal_and_the_rest_of_the_line_stays(
    name: str, answer: str, idea: str, line: str
) -> None:
    assert changed(name, answer, idea) == NewValue(line)


@pytest.mark.parametrize(
    ("name", "answer", "idea", "words"),
    [
        ("ROWS", "16", "Use batches of 8 rows instead of 32.", "the idea says 8"),
        ("ROWS", "ROWS * 2", "Halve the batch size.", "'Halve' of 32 is not 64"),
        ("ROWS", "32", "Use batches of 8 rows.", "the idea says 8"),
        ("ROWS", "ROWS * 8", "Use batches of 8 rows.", "the idea says 8"),
        ("DECAY", "DECAY * 2", "Use a decay of 2% instead of 10%.", "the idea says 2%"),
        ("RATE", "open('x')", "Use a peak rate of 6e-3.", "is not a number"),
        ("RATE", "6e-3 bytes", "Use a peak rate of 6e-3.", "is not a value"),
        ("RATE", "9**9**9", "Use a peak rate of 6e-3.", "too large a power"),
        ("RATE", "1/0", "Use a peak rate of 6e-3.", "division by zero"),
        ("KIND", "3", "Use the linear kind.", "needs another str"),
        ("DECAY", "1e-4", "Let the decay fall to zero.", "the idea says zero"),
    ],
)
def test_a_value_that_the_idea_does_not_ask_for_is_a_problem(name: str, answer: str, idea: str, words: str) -> None:
    assert words in changed(name, answer, idea).problem


def test_words_of_direction_only_raise_a_doubt() -> None:
    wrong_way = changed("DECAY", "0.3", "Reduce the weight decay.")
    assert wrong_way.problem == ""
    assert "less than 0.1" in wrong_way.doubt
    assert changed("DECAY", "0.05", "Reduce the weight decay.").doubt == ""
    assert "means 0" in changed("DECAY", "0.05", "Train without weight decay.").doubt


def test_old_values_in_the_idea_are_not_taken_for_new_ones() -> None:
    assert stated_numbers("Use 8 rows instead of the 32 rows") == [("8", (8.0,))]
    assert stated_numbers("Go from 3e-3 to 6e-3") == [("6e-3", (0.006,))]
    assert stated_numbers("Warm up over 2% of 1,024 steps") == [("2%", (0.02, 2.0)), ("1,024", (1024.0,))]
    assert stated_numbers("Set beta2 and L2") == []


def test_stated_values_are_literals_and_leave_relative_ideas_alone() -> None:
    assert stated_values("Warm up over 2% instead of 5%.") == ["0.02", "2"]
    assert stated_values("Use 6e-3.") == ["0.006"]
    assert stated_values("Let the rate fall to zero.") == ["0"]
    assert stated_values("Add 2 more layers.") == []


@pytest.mark.parametrize(
    ("idea", "picked", "instead"),
    [
        ("Lower the learning rate to 1e-4.", "L2", ["LEARNING_RATE"]),
        ("Lower the learning rate to 1e-4.", "LEARNING_RATE", []),
        ("Use 8 rows instead of 32.", "LEARNING_RATE", ["ROWS"]),
        ("Warm the learning rate up over 2%.", "WARMUP", []),
        ("Let the learning rate end at zero.", "LAST", []),
        ("Shorten the warm-up to 2% instead of 10%.", "schedule", ["WARMUP", "LAST"]),
        ("Use a linear schedule.", "schedule", []),
    ],
)
def test_a_pick_that_the_words_cannot_mean_gives_way_to_the_constants_that_they_name(
    idea: str, picked: str, instead: list[str]
) -> None:
    text = """LEARNING_RATE = 3e-3
L2 = 0.2  # pull
ROWS = 32
WARMUP = 0.1  # share in which the learning rate rises
LAST = 0.1  # learning rate at the end
OTHER = 0.1


def schedule(fraction):
    return WARMUP * fraction + LAST
"""
    parts = outline("fit.py", text)
    part = next(part for part in parts if part.name == picked)
    found = meant_instead(idea, parts, part, assigned_expressions(text))
    assert [other.name for other in found] == instead
