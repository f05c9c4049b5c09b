"""Whatever a model writes: ideas are read from it, or nothing, and nothing in it does harm."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xar_agent.population.idea_answers import MAX_IDEA_CHARS, read_ideas

A = {"title": "Warm restarts", "description": "Restart the rate", "code_changes": "in train.py", "hyperparameters": []}
TEXT = "Warm restarts. Restart the rate. Code changes: in train.py."


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps({"ideas": [A]}),
        json.dumps([A]),
        json.dumps(A),
        json.dumps({"proposals": [A]}),
        json.dumps({"idea": A}),
        json.dumps({"ideas": {"1": A}}),
        json.dumps({"idea 1": A}),
        f"Here you are:\n```json\n{json.dumps({'ideas': [A]}, indent=2)}\n```\nGood luck [really].",
        f"```\n{json.dumps(A)}\n```",
        f"<think>a list [1, 2] of {{things}}</think>{json.dumps([A])}",
        json.dumps({"ideas": [A, A, {}, None, 3, "x", {"title": "..."}]}),
        json.dumps({"ideas": [A]})[:-2] + ', {"title": "Cut off", "descr',
        json.dumps({"ideas": [{"Title": A["title"], "Summary": A["description"], "Implementation": "in train.py"}]}),
        json.dumps({"ideas": [{"name": A["title"], "idea": A["description"], "Code Changes": ["in train.py"]}]}),
        json.dumps({"Ideas": [TEXT]}),
        json.dumps([TEXT]),
        json.dumps({"ideas": [{"text": TEXT}]}),
    ],
)
def test_the_common_ways_to_write_an_idea_are_read(answer: str) -> None:
    assert read_ideas(answer) == [TEXT]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([{"name": "LR", "value": "3e-3"}, {"name": "BETA", "value": 0.9}], "LR = 3e-3, BETA = 0.9"),
        ({"LR": 0.003, "decay": [1, 2]}, "LR = 0.003, decay = 1; 2"),
        ("LR is 0.003", "LR is 0.003"),
        (["LR 0.003", "BETA 0.9"], "LR 0.003; BETA 0.9"),
    ],
)
def test_hyper_parameters_are_said_in_words(values: object, told: str) -> None:
    assert read_ideas(json.dumps([A | {"hyperparameters": values}])) == [f"{TEXT} Hyper-parameters: {told}."]


@pytest.mark.parametrize(
    "answer", ["", "no", "[1]", "{}", "[]", "null", '{"ideas": []}', '{"ideas": "x"}', '{"error": "busy"}', "{{{[["]
)
def test_where_there_is_no_idea_none_is_made_up(answer: str) -> None:
    assert read_ideas(answer) == []


def test_the_hyper_parameters_of_a_list_that_was_cut_off_are_no_ideas() -> None:
    cut = '{"ideas": [{"title": "Warm", "hyperparameters": [{"name": "the rate of", "value": "three long words"}, {"na'
    assert read_ideas(cut) == []


def test_an_idea_is_one_line_without_control_or_invisible_characters() -> None:
    hostile = "Reset\x1b[31m\x00 the\u202e rate\r\nand\tgo \ud800 on\u200b, {{ 7 * 7 }} <<user>> {% include 'x' %}"
    (text,) = read_ideas(json.dumps({"ideas": [hostile]}))
    assert text == "Reset[31m the rate and go on, {{ 7 * 7 }} <<user>> {% include 'x' %}"


def test_an_idea_has_a_largest_length() -> None:
    (text,) = read_ideas(json.dumps([A | {"description": "word " * 5000}]))
    assert MAX_IDEA_CHARS - 10 < len(text) <= MAX_IDEA_CHARS


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 300_000,
        '{"a":' * 60_000,
        '["' + "a" * 300_000,
        '{"ideas": [' + "9" * 5000 + "]}",
        json.dumps({"ideas": [NAN := float("nan"), {"title": NAN}]}),
        '{"ideas": ' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=["brackets", "nested", "open", "digits", "nan", "deep"],
)
def test_a_hostile_answer_is_read_in_no_time(answer: str) -> None:
    began = time.monotonic()
    assert read_ideas(answer) == []
    assert time.monotonic() - began < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["ideas", "title", "text", "x"]), inner),
)


@given(JSON, st.text())
def test_any_json_in_any_prose_gives_texts_that_can_be_written(value: object, prose: str) -> None:
    for text in read_ideas(prose + json.dumps(value)):
        assert 3 <= len(text) <= MAX_IDEA_CHARS
        assert "\n" not in text
        text.encode()
