"""Calibration: a distribution and a curve, saved value by value, found again for these very files and machine only."""

from __future__ import annotations

import statistics
import threading
from pathlib import Path

import pytest

from xar_agent.envs.spec import Baseline, EnvSpec, load_env
from xar_agent.errors import EvaluationError, Interrupted, UserError
from xar_agent.jobs.baseline import CalibrationProgress, baseline_for, baseline_path, calibrate, seeds_at
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.machine import machine_id
from xar_agent.store import read_lines

pytestmark = pytest.mark.parametrize("backend", ["process"], indirect=True)


def test_a_calibration_is_resumed_and_found_again(bench: Bench, toy_copy: Path) -> None:
    values_path = baseline_path(bench.env, "default").with_suffix(".values.jsonl")
    cancel = threading.Event()
    heard: list[CalibrationProgress] = []

    def stop_after_two(progress: CalibrationProgress) -> None:
        heard.append(progress)
        if progress.done == 2:
            cancel.set()

    assert baseline_for(bench.env, "default") is None
    with pytest.raises(Interrupted):
        calibrate(bench, 3, compute=(1.0, 1.5), on_progress=stop_after_two, cancel=cancel)
    first = read_lines(values_path)
    assert len(first) >= 2
    assert baseline_for(bench.env, "default") is None

    found = calibrate(bench, 3, compute=(1.0, 1.5), parallel=2, on_progress=heard.append)
    lines = read_lines(values_path)
    assert lines[: len(first)] == first
    assert len(lines) == 6
    assert heard[-1].done == heard[-1].total == 6
    at_one = [line["value"] for line in lines if line["compute"] == 1.0]
    assert found.n == 3
    assert found.mean == pytest.approx(statistics.fmean(at_one))
    assert found.sd == pytest.approx(statistics.stdev(at_one))
    assert sorted(found.values.values()) == sorted(at_one)
    assert [(point.compute, point.n) for point in found.curve] == [(1.0, 3), (1.5, 3)]
    assert found.curve[1].mean < found.curve[0].mean, "more tokens, lower loss"
    assert found.machine == machine_id()
    assert baseline_for(EnvSpec(toy_copy), "default") == found

    (toy_copy / "repo" / "train.py").write_text((toy_copy / "repo" / "train.py").read_text() + "\n")
    assert baseline_for(EnvSpec(toy_copy), "default") is None


def test_a_shipped_baseline_serves_until_there_is_a_local_one(bench: Bench, toy_copy: Path) -> None:
    env = bench.env
    shipped = Baseline(
        env_version=env.version,
        evaluator_version=env.evaluator_version,
        preset="default",
        machine="another machine",
        mean=1.0,
        sd=0.1,
        n=20,
        values={},
        cpu_s=1.0,
        curve=[],
    )
    (toy_copy / "baselines").mkdir()
    (toy_copy / "baselines" / "default.json").write_text(shipped.model_dump_json())
    found = baseline_for(env, "default")
    assert found is not None
    assert (found.shipped, found.machine) == (True, "another machine")
    local = calibrate(bench, 2, compute=(1.0,))
    assert baseline_for(env, "default") == local
    assert not local.shipped


def test_one_seed_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="at least two"):
        calibrate(bench, 1)


def test_a_repository_that_does_not_train_is_an_error_with_its_reason(toy_copy: Path, bench: Bench) -> None:
    (toy_copy / "evaluator.py").write_text("raise SystemExit(1)")
    with pytest.raises(EvaluationError):
        calibrate(bench, 2, compute=(1.0,))


def test_the_ends_of_the_curve_get_fewer_seeds(bench: Bench) -> None:
    assert [len(seeds_at(c, n)) for c, n in ((1.0, 20), (0.5, 20), (1.5, 40), (0.5, 4), (0.5, 2))] == [20, 5, 10, 3, 2]
    assert set(seeds_at(0.5, 20)) <= set(seeds_at(1.0, 20)), "the same seeds: their luck cancels in the slope"


def test_the_machine_is_named_without_importing_torch(bench: Bench) -> None:
    assert "Python 3" in machine_id()
    assert "torch" in machine_id()


def test_the_hidden_split_has_seeds_and_a_file_of_its_own_and_the_other_curve_at_its_level(bench: Bench) -> None:
    searched = calibrate(bench, 2, compute=(1.5,))
    hidden = calibrate(bench, 2, split="hidden")
    assert baseline_for(bench.env, "default") == searched
    assert baseline_for(bench.env, "default", "hidden") == hidden
    assert not set(searched.values) & set(hidden.values)
    assert hidden.mean != searched.mean
    assert [point.compute for point in hidden.curve] == [1.0, 1.5]
    assert hidden.curve[0].mean == hidden.mean
    rise = searched.curve[1].mean - searched.mean
    assert hidden.curve[1].mean - hidden.mean == pytest.approx(rise)


@pytest.mark.parametrize(("name", "n"), [("toy", 24), ("nanogpt", 12)])
def test_the_shipped_baselines_of_both_splits_fit_the_shipped_environment(bench: Bench, name: str, n: int) -> None:
    env = load_env(name)
    searched, hidden = (env.shipped_baseline(env.default_preset, split) for split in ("val", "hidden"))
    assert searched is not None
    assert hidden is not None
    assert hidden.n == n
    assert not set(searched.values) & set(hidden.values)
    assert [point.compute for point in hidden.curve] == [point.compute for point in searched.curve]
