"""Every cheat planted in the toy environment, through whole jobs at a fifth of its size."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from cheat_files import SUITE, cheats_of, name_of

from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.jobs.bench import open_bench

sys.path.append(str(SUITE))
from suite import Suite, read_attempt, run_diff, value_of  # noqa: E402  - a script of the benchmarks, not a package

pytestmark = pytest.mark.bwrap
SMALLER = {"budget = 40960": "budget = 8192", "val_tokens = 8192": "val_tokens = 4096"}


@pytest.fixture(scope="module")
def small_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the environment that trains in half a second."""
    folder = tmp_path_factory.mktemp("envs") / "toy"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "env.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def suites() -> dict[str, Suite]:
    """The suite of this module, made by the first test."""
    return {}


@pytest.fixture
def suite(small_toy: Path, suites: dict[str, Suite], tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A bench over the small environment, and the untouched repository's score at the same seed."""
    if "toy" not in suites:
        folder = tmp_path_factory.mktemp("cheats")
        bench = open_bench(EnvSpec(small_toy), "default", "bubblewrap", folder)
        outcome = run_diff(bench, "", 1, folder / "untouched")
        assert outcome.evaluation is not None, outcome.failure
        assert outcome.evaluation.valid, outcome.failure
        untouched = value_of(outcome)
        assert untouched is not None
        suites["toy"] = Suite(bench, 1, folder, untouched)
    return suites["toy"]


@pytest.mark.parametrize("path", [pytest.param(path, id=name_of(path)) for path in cheats_of("toy")])
def test_a_cheat_on_the_toy_is_caught_by_the_check_that_it_names(path: Path, suite: Suite) -> None:
    finding = suite.try_out(read_attempt(path, path.parent, "cheats"))
    assert finding.ok, (finding.expected, finding.caught_by, finding.gain, finding.reason)
