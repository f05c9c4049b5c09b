"""A baseline is taken over to changed files only when scores of it come out the same to the last bit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from xar_agent.envs.spec import Baseline, EnvSpec, load_env
from xar_agent.errors import EvaluationError, Interrupted, UserError
from xar_agent.jobs.baseline import baseline_for, calibrate
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.carry import carry, keys_to_check
from xar_agent.jobs.machine import machine_id
from xar_agent.store import to_json

REAL = load_env("toy").folder / "baselines" / "default.json"


@pytest.fixture
def put(toy_copy: Path) -> Callable[[str], Path]:
    """Puts the text of a baseline into the environment's folder."""

    def write(text: str) -> Path:
        path = toy_copy / "baselines" / "default.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_a_baseline_is_carried_over_when_its_scores_are_the_same_and_refused_when_one_is_not(
    bench: Bench, toy_copy: Path, tmp_path: Path, put: Callable[[str], Path]
) -> None:
    path = put(to_json(calibrate(bench, 2, compute=(1.0,), parallel=2).model_dump()))
    toml = toy_copy / "env.toml"
    toml.write_text(toml.read_text() + "\n# a remark\n")
    (tmp_path / "again").mkdir()
    now = open_bench(EnvSpec(toy_copy), "default", bench.backend, tmp_path / "again")
    assert baseline_for(now.env, "default") is None

    good = path.read_text()
    put(good.replace('"1001"', '"9001"'))
    with pytest.raises(EvaluationError, match="at seed 9001, and was"):
        carry(now, 2)
    assert baseline_for(now.env, "default") is None

    put(good)
    carried = carry(now, 2)
    assert (carried.env_version, carried.rechecked, carried.n) == (now.env.version, [1000, 1001], 2)
    assert carried.carried_from.split("/")[0] == bench.env.version != now.env.version
    assert baseline_for(now.env, "default") == carried


def test_a_baseline_of_another_machine_or_none_at_all_is_not_carried(bench: Bench, put: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="no baseline"):
        carry(bench, 2)
    put(REAL.read_text().replace('"machine": "', '"machine": "another '))
    with pytest.raises(UserError, match="another machine"):
        carry(bench, 2)
    put("{}")
    with pytest.raises(UserError, match="is no baseline"):
        carry(bench, 2)


def test_an_interrupted_check_writes_nothing(bench: Bench, put: Callable[[str], Path]) -> None:
    here = machine_id(bench.runtime)
    put(to_json({**json.loads(REAL.read_text()), "machine": here}))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        carry(bench, 2, cancel=stop)
    assert baseline_for(bench.env, "default") is None


def test_the_seeds_to_check_are_spread_over_all() -> None:
    old = Baseline.model_validate_json(REAL.read_text())
    seeds = sorted(map(int, old.values))
    assert [seed for _, seed in keys_to_check(old, 3)] == [seeds[0], seeds[(len(seeds) - 1) // 2], seeds[-1]]
    assert len(keys_to_check(old, 1)) == 2
