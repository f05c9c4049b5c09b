"""The prompts as models get them: a change must be meant, and the golden text shows it in review."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from xar_agent import prompts
from xar_agent.agent.implement import first_messages

GOLDEN = Path(__file__).parent / "golden"
VALUES = {
    "env": "toy",
    "preset": "default",
    "editable": "train.py, model.py",
    "protected": "stream.py",
    "contract": "- It trains.",
    "direction": "a lower val_loss",
    "submits": True,
    "idea": "Use <b>GELU</b> & raise LEARNING_RATE to 3.",
    "description": "An n-gram model.",
    "files": ["train.py (94 lines)"],
    "parent": False,
}


@pytest.mark.parametrize(
    ("name", "changes"), [("first", {}), ("child", {"submits": False, "parent": True, "protected": ""})]
)
def test_the_first_messages_are_the_golden_ones(name: str, changes: dict[str, object]) -> None:
    text = "\n=====\n".join(message["content"] for message in first_messages(VALUES | changes))
    assert text == (GOLDEN / f"{name}.txt").read_text()


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        prompts.render("repair", kind="CODE")


@pytest.mark.parametrize("bad", ["no_call", "cut_off"])
def test_every_bad_reply_has_its_words(bad: str) -> None:
    assert prompts.render("format", bad=bad).startswith("Your reply")
