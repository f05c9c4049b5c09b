"""An edit goes to the one place that is meant, or nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xar_agent.tools.matching import find_matches, nearest_places

TEXT = "def f():\n    a = 1   \n    b = 2\n\n    if a:\n        c = 3\n        d = 4\n"


def one_edit(text: str, old: str, new: str) -> tuple[str, str]:
    """(rule, edited text) of a match that must be unique."""
    matches = find_matches(text, old, new)
    assert matches is not None
    (place,) = matches.places
    return matches.rule, text[: place.start] + place.replacement + text[place.end :]


def test_an_exact_match_wins_over_looser_ones() -> None:
    text = "x = 1\nx = 1 \n"
    assert find_matches(text, "x = 1 \n", "y\n").rule == "exact"  # type: ignore[union-attr]


def test_trailing_spaces_are_ignored_when_nothing_matches_exactly() -> None:
    rule, edited = one_edit(TEXT, "    a = 1\n    b = 2  \n", "    a = 9\n    b = 2\n")
    assert rule == "trailing spaces"
    assert edited == TEXT.replace("    a = 1   \n", "    a = 9\n")


@pytest.mark.parametrize("indent", ["", "    ", "            "])
def test_a_block_with_another_uniform_indentation_is_found_and_reindented(indent: str) -> None:
    old = f"{indent}c = 3\n{indent}d = 4\n"
    rule, edited = one_edit(TEXT, old, f"{indent}c = 5\n{indent}for i in x:\n{indent}    d = 6\n")
    assert rule == "re-indented"
    assert edited.endswith("    if a:\n        c = 5\n        for i in x:\n            d = 6\n")


def test_a_block_whose_inner_indentation_differs_is_not_found() -> None:
    assert find_matches(TEXT, "if a:\n  c = 3\n", "pass\n") is None


def test_new_lines_that_cannot_be_moved_left_make_no_match() -> None:
    assert find_matches("a\nb\n", "    a\n    b\n", "    a\nb\n") is None


def test_two_places_are_both_reported() -> None:
    matches = find_matches("a = 1\nb = 2\na = 1\n", "a = 1", "a = 2")
    assert matches is not None
    assert [place.line for place in matches.places] == [1, 3]


def test_overlapping_places_are_both_reported() -> None:
    matches = find_matches("aaa", "aa", "b")
    assert matches is not None
    assert len(matches.places) == 2


def test_blank_text_matches_only_exactly() -> None:
    assert find_matches("a\n\t\nb", "  \n", "x") is None


def test_the_nearest_place_is_named_with_its_lines() -> None:
    assert nearest_places(TEXT, "    c = 33\n    d = 4\n")[0].startswith("6-7: c = 3")


@given(st.text("ab \n", max_size=40), st.text("ab \n", min_size=1, max_size=8), st.text("ab \n", max_size=8))
def test_a_replacement_leaves_all_other_lines_as_they_are(text: str, old: str, new: str) -> None:
    matches = find_matches(text, old, new)
    for place in matches.places if matches else ():
        replaced = text[place.start : place.end]
        assert "".join(replaced.split()) == "".join(old.split())
        assert text[: place.start] + replaced + text[place.end :] == text
