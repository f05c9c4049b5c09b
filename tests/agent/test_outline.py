"""The named parts of a Python file."""

from __future__ import annotations

from xar_agent.agent.outline import assigned_expressions, outline, outline_files, splice

TEXT = '''"""A module."""

import math

RATE = 3e-3  # at the peak
NAMES: tuple[str, ...] = ("a", "b")


@decorated(1)
def squash(x: float, y: float) -> float:
    """Make it small.

    More words.
    """
    return math.tanh(x) + helper.scale(y)


class Net(Base):
    """A net."""

    def forward(self, x: float) -> float:
        return squash(x, x)


if __name__ == "__main__":
    squash(1, 2)
'''


def test_constants_functions_and_classes_are_parts_and_nothing_else() -> None:
    found = outline("net.py", TEXT)
    assert [(part.label, part.kind) for part in found] == [
        ("net.py:RATE", "constant"),
        ("net.py:NAMES", "constant"),
        ("net.py:squash", "function"),
        ("net.py:Net", "class"),
    ]


def test_a_summary_has_the_header_the_first_docstring_line_and_what_is_called() -> None:
    by_name = {part.name: part.summary for part in outline("net.py", TEXT)}
    assert by_name["RATE"] == "RATE = 3e-3 # at the peak"
    assert by_name["squash"] == "def squash(x, y): Make it small. [calls decorated, math.tanh, helper.scale]"
    assert by_name["Net"] == "class Net: A net. [calls squash]"


def test_a_part_takes_its_decorator_and_its_comment_along_and_can_be_replaced() -> None:
    rate, _, squash, _ = outline("net.py", TEXT)
    assert rate.source == "RATE = 3e-3  # at the peak"
    assert squash.source.startswith("@decorated(1)\ndef squash")
    edited = splice(TEXT, squash, "def squash(x, y):\n    return x")
    assert "@decorated" not in edited
    assert "def squash(x, y):\n    return x\n\n\nclass Net" in edited
    assert splice(TEXT, squash, squash.source) == TEXT


def test_a_file_that_does_not_parse_and_a_file_of_another_language_have_no_parts() -> None:
    assert outline_files({"bad.py": "def (", "notes.md": "A = 1", "good.py": "A = 1"}) == outline("good.py", "A = 1")


def test_assigned_expressions_know_every_top_level_constant() -> None:
    assert set(assigned_expressions(TEXT)) == {"RATE", "NAMES"}
