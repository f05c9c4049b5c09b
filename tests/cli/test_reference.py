"""docs/cli.md says what ``--help`` says."""

from __future__ import annotations

from pathlib import Path

from xar_agent.cli.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_the_page_is_what_help_says() -> None:
    assert PAGE.read_text() == reference(), "run: make docs"


def test_no_verb_is_a_stub() -> None:
    text = reference().lower()
    assert "not implemented" not in text
    assert "not built" not in text
