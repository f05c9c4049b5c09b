"""Every attack of the tables, on every isolating back end; after each, the same checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from assault import ATTACKS, check
from attacks import TIGHT, Attack
from backends import ISOLATING
from scan import OpenBox
from victim import Host

pytestmark = pytest.mark.parametrize("backend", ISOLATING, indirect=True)


@pytest.fixture
def host(tmp_path: Path, planted_key: str) -> Iterator[Host]:
    """The machine outside."""
    with Host(tmp_path / "host", tmp_path / "host-home", planted_key[::-1]) as machine:
        yield machine


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_ends_and_touches_nothing(open_box: OpenBox, marker: str, host: Host, attack: Attack) -> None:
    check(open_box(limits=TIGHT), attack, marker, host)
