"""However and whenever our process is killed: no process after five seconds, no container or mount after a start."""

from __future__ import annotations

import pytest
from backends import BACKENDS
from kill_episodes import run


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.soak)])
def test_killed_at_random_moments_nothing_stays(backend: str, count: int) -> None:
    tally = run(backend, count)
    print(tally.line(backend))
    assert tally.clean, tally.line(backend)
    assert sum(tally.stages.values()) == count
