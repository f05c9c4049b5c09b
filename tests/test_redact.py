"""Which variables of the environment hold secrets."""

from __future__ import annotations

import pytest

from xar_agent.redact import MASK, redact, secret_values

VALUE = "correct horse battery"


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "PGPASSWORD", "APIKEY", "OPENAIKEY", "HF_TOKEN", "SECRET_A", "AWS_CREDENTIALS", "keys"]
)
def test_a_name_that_says_secret_hides_its_value(name: str) -> None:
    assert redact(f"it is {VALUE}", secret_values({name: VALUE})) == f"it is {MASK}"


@pytest.mark.parametrize("name", ["HOME", "KEYBOARD_LAYOUT", "TOKENIZERS_PARALLELISM", "PASSWORDLESS"])
def test_other_names_do_not(name: str) -> None:
    assert secret_values({name: VALUE}) == ()
