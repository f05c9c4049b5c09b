"""Arguments that the kernel takes in no command: the model's mistake, so a result."""

from __future__ import annotations

import pytest

from xar_agent.sandbox import Sandbox


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("a\0b", "NUL"), ("a\ud800", "surrogate"), ("x" * 131_072, "too long"), (("y " * 60_000).strip(), "")],
)
def test_an_argument_that_no_command_can_have_is_a_value(box: Sandbox, argument: str, reason: str) -> None:
    result = box.exec(["printf", "%.1s", argument])
    assert (result.exit_code, bool(reason)) in ((126, True), (0, False))
    assert reason in result.output
    assert box.exec(["true"], cwd=argument[:5000]).exit_code == 126


def test_too_many_arguments_are_a_value(box: Sandbox) -> None:
    result = box.exec(["true", *["x" * 1000] * 4000])
    assert result.exit_code == 126
    assert "too long" in result.output
    result = box.exec(["true"], env={"BIG": "x" * 200_000})
    assert (result.exit_code, "too long" in result.output) == (126, True)
