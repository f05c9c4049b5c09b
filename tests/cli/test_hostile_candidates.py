"""A search whose candidates attack it gives the others the scores that they have without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "accept" / "hostile_search.py"


@pytest.mark.soak
@pytest.mark.parametrize(
    "backend", [pytest.param("bubblewrap", marks=pytest.mark.bwrap), pytest.param("docker", marks=pytest.mark.docker)]
)
@pytest.mark.usefixtures("user_cache")
def test_honest_candidates_keep_their_scores_among_hostile_ones(backend: str, request: pytest.FixtureRequest) -> None:
    environment = dict(os.environ)
    if backend == "docker":
        environment["XAR_IMAGE"] = request.getfixturevalue("docker_image")
    words = [sys.executable, str(PROGRAM), backend]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"{backend}: 8 of 8 scores equal, 0 survivors" in done.stdout
