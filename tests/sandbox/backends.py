"""The back ends under test; those that a machine lacks are skipped with the reason."""

from __future__ import annotations

import pytest

BACKENDS = [
    pytest.param("bubblewrap", marks=pytest.mark.bwrap),
    "process",
    pytest.param("docker", marks=pytest.mark.docker),
]
ISOLATING = [BACKENDS[0], BACKENDS[2]]
