"""The syntax gate refuses what an edit breaks, and nothing that was broken before."""

from __future__ import annotations

import pytest

from xar_agent.tools.syntax import new_syntax_error, outline


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("a.py", "x = 1\n", "x = (\n"),
        ("a.json", '{"a": 1}', '{"a": 1'),
        ("a.sh", "if true; then ls; fi\n", "if true; then\n"),
    ],
)
def test_an_edit_that_breaks_a_file_is_refused_with_its_line(path: str, good: str, bad: str) -> None:
    assert new_syntax_error(path, good, bad).startswith("line 1")
    assert new_syntax_error(path, None, bad)
    assert new_syntax_error(path, good, good) == ""


def test_a_file_that_was_broken_before_may_stay_broken_elsewhere() -> None:
    before = "def f(:\n    pass\n\nx = 1\n"
    assert new_syntax_error("a.py", before, before.replace("x = 1", "x = 2")) == ""


def test_a_broken_file_may_not_be_broken_further() -> None:
    before = "def f(:\n    pass\n\nx = 1\n"
    assert new_syntax_error("a.py", before, before.replace("x = 1", "x = ((1\n\ndef g(:\n")) != ""


def test_a_file_without_a_grammar_has_no_gate() -> None:
    assert new_syntax_error("notes.md", "a", "((((") == ""


def test_text_that_no_parser_takes_is_an_error_and_not_an_exception() -> None:
    assert new_syntax_error("a.py", "x = 1", "x = '\0'") != ""
    assert new_syntax_error("a.py", "x = 1", "(" * 5000) != ""


def test_an_invalid_escape_in_the_edited_code_raises_no_warning_here() -> None:
    assert new_syntax_error("a.py", None, "x = '\\d'\n") == ""


def test_the_outline_names_constants_classes_methods_and_decorated_functions() -> None:
    text = "A = 1\n\n\n@cache\ndef f(x):\n    return x\n\n\nclass C:\n    def m(self):\n        y = 1\n"
    assert outline("a.py", text) == ["1-1: A = 1", "4-6: def f(x):", "9-11: class C:", "10-11:   def m(self):"]
