"""Text of unknown origin at a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xar_agent.analysis.text import duration, fold, one_line, printable, size


@pytest.mark.parametrize(
    ("hostile", "safe"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;owned title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1b[2J\x1b[Hb", "ab"),
        ("\x1bPq#0;2;0;0;0\x1b\\sixel", "sixel"),
        ("back\x08\x08space\x07", "backspace"),
        ("\x9b31mc1", "c1"),
        ("if user\u202e // admin\u2066", "if user // admin"),
        ("over\rwritten", "over\nwritten"),
        ("dos\r\nline", "dos\nline"),
    ],
)
def test_nothing_that_steers_a_terminal_is_left(hostile: str, safe: str) -> None:
    assert printable(hostile) == safe


@given(st.text())
def test_only_tabs_and_newlines_are_left_of_all_control_characters(text: str) -> None:
    left = {char for char in printable(text) if unicodedata.category(char) == "Cc"}
    assert left <= {"\t", "\n"}


@given(st.text(), st.integers(2, 200))
def test_one_line_is_one_line_of_at_most_that_width(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert "\n" not in line


def test_ordinary_text_stays_as_it_is() -> None:
    text = "def f(x):\n\treturn x ** 2  # Größe ≤ 3 µs, 日本語"
    assert printable(text) == text


def test_a_long_text_keeps_its_head_and_tail_and_says_how_much_is_missing() -> None:
    folded = fold("\n".join(str(i) for i in range(100)), head=3, tail=2).splitlines()
    assert folded == ["0", "1", "2", "[… 95 lines left out …]", "98", "99"]


def test_a_short_text_is_not_folded() -> None:
    assert fold("1\n2\n3\n4\n", head=2, tail=1) == "1\n2\n3\n4"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_are_in_the_unit_that_a_person_would_choose(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(512, "512 B"), (34_000_000, "34 MB"), (1_117_320_768, "1.1 GB")])
def test_sizes_are_in_the_unit_that_a_person_would_choose(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text
