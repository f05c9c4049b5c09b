"""Each test and attack that docs/sandboxes.md names as a proof is there, and each row has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "sandboxes.md"

if not PAGE.is_file():
    pytest.skip("needs the repository", allow_module_level=True)

TEXT = PAGE.read_text()
PROVED = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.*`.+) \|$", flags=re.MULTILINE)
NAMED = sorted(set(re.findall(r"`(test_\w+)`", TEXT)))
ATTACKS = sorted(set(re.findall(r"attack `([^`]+)`", TEXT)))


@pytest.fixture(scope="module")
def sources() -> str:
    """The text of all tests."""
    return "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_page_names_is_there(name: str, sources: str) -> None:
    assert f"def {name}(" in sources


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_the_page_names_is_there(name: str, sources: str) -> None:
    assert re.search(rf'Attack\(\s*"{re.escape(name)}",', sources)


def test_every_row_of_the_table_names_its_proof() -> None:
    rows = PROVED.findall(TEXT)
    assert len(rows) >= 18
    for row in rows:
        assert re.search(r"`test_\w+`|attack `", row[-1]), row[0]


def test_what_the_page_says_of_process_is_what_it_claims() -> None:
    from xar_agent.sandbox import probe

    claims = probe("process").capabilities
    assert (claims.network_off, claims.readonly, claims.secrets_hidden, claims.pid_ns) == (False, False, False, False)
    assert "| `process` | nothing | **no**" in TEXT
