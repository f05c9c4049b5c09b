"""The host's own checks: on record by name also when they passed, and a failed one keeps the value it refuses."""

from __future__ import annotations

import json
import subprocess
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xar_agent.jobs.bench import Bench
from xar_agent.jobs.charge import with_compute_check
from xar_agent.jobs.checks import HOST_CHECKS, budget_check, with_checks
from xar_agent.jobs.evaluation import Measurement, request_of
from xar_agent.jobs.probe import CpuReference
from xar_agent.jobs.records import load
from xar_agent.jobs.smoke import run_smoke
from xar_agent.jobs.training import Training
from xar_agent.jobs.types import Check, Evaluation, Failure, FailureClass, JobSpec, JobState
from xar_agent.jobs.worker import RESULT, run_job

Edit = Callable[..., str]
Wish = Callable[..., JobSpec]
PROCESS = pytest.mark.parametrize("backend", ["process"], indirect=True)
VALID = Measurement(1.0, {}, (Check("shape", True),), None, 7, 1.0)
DONE = Training(None, None, "", 900, 20.0, 25.0, (), trained_s=21.0)


def test_every_check_of_a_job_is_on_record_by_name(bench: Bench, wish: Wish, tmp_path: Path) -> None:
    evaluation = run_job(bench, wish(bench.base_tree), tmp_path / "job").evaluation
    assert evaluation is not None
    assert evaluation.valid
    assert evaluation.corpus == bench.data.corpus != ""
    record = json.loads((tmp_path / "job" / RESULT).read_text())
    by_name = {check["name"]: check for check in record["checks"]}
    assert set(HOST_CHECKS) | {"shape", "finite", "prefix_audit", "stateless"} <= set(by_name)
    assert all(check["passed"] and not check["reason"] for check in by_name.values())
    assert by_name["budget"]["figure"] == evaluation.tokens == bench.preset.budget
    assert by_name["compute"]["figure"] == pytest.approx(evaluation.train_cpu_s)
    assert by_name["protected_files"]["figure"] == len(bench.protected.files)


@PROCESS
def test_a_patch_that_recites_is_measured_and_quarantined_with_its_value(
    bench: Bench, edit: Edit, wish: Wish, tmp_path: Path
) -> None:
    ids = array("H", (bench.data.split("hidden") / "hidden.bin").read_bytes())[:400].tolist()
    tree = edit({"train.py": ("BATCH_SIZE = 8", f"KNOWN = {ids}\nBATCH_SIZE = 8")})
    outcome = run_job(bench, wish(tree), tmp_path / "job")
    assert outcome.state is JobState.SUCCEEDED
    assert outcome.failure is not None
    assert outcome.evaluation is not None
    assert outcome.failure.kind is FailureClass.INVALID
    assert outcome.failure.reason.startswith("recitation: the patch lists token ids of the hidden split")
    assert (outcome.evaluation.valid, outcome.evaluation.value is not None) == (False, True)
    assert outcome.evaluation.reasons == (outcome.failure.reason,)
    assert [check.name for check in outcome.evaluation.checks if not check.passed] == ["recitation"]


@PROCESS
def test_a_diff_that_does_not_show_what_it_adds_hides_nothing(
    bench: Bench, edit: Edit, wish: Wish, tmp_path: Path
) -> None:
    tree = edit({"train.py": ("BATCH_SIZE = 8", f"X = '{bytes(range(256)).hex() * 3}'\nBATCH_SIZE = 8")})
    spec = wish(tree)
    attributes = bench.git_store / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text("* -diff\n")
    words = ("diff-tree", "-p", "--binary", "--full-index", bench.base_tree, tree)
    packed = subprocess.check_output(["git", "--git-dir", bench.git_store, *words], text=True)
    attributes.unlink()
    assert "GIT binary patch" in packed
    outcome = run_job(bench, replace(spec, patch=replace(spec.patch, diff=packed)), tmp_path / "job")
    assert outcome.failure is not None
    assert outcome.failure.reason.startswith("recitation: the patch carries 1,536 bytes of data in literals")


@PROCESS
def test_a_patch_full_of_data_hears_so_in_the_smoke_test(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    tree = edit({"train.py": ("BATCH_SIZE = 8", f"X = '{bytes(range(256)).hex() * 3}'\nBATCH_SIZE = 8")})
    report = run_smoke(bench, tree, log_path=tmp_path / "log")
    assert report.failure is not None
    assert (report.passed, report.failure.kind) == (False, FailureClass.INTEGRITY)
    assert report.failure.reason.startswith("recitation: the patch carries 1,536 bytes of data in literals")


@PROCESS
def test_the_budget_is_what_the_host_served_or_timed(bench: Bench) -> None:
    tokens = bench.preset.model_copy(update={"budget": 900})
    assert budget_check(tokens, DONE) == Check("budget", True, "", 900.0)
    over = budget_check(tokens, replace(DONE, tokens=901))
    assert (over.passed, over.reason) == (False, "used 901 tokens of 900")
    seconds = bench.preset.model_copy(update={"budget": 20, "clock": "seconds"})
    assert budget_check(seconds, DONE) == Check("budget", True, "", 21.0)
    assert not budget_check(seconds, replace(DONE, trained_s=70.0)).passed


@PROCESS
def test_the_evaluator_is_told_what_training_took_and_nothing_in_a_smoke_test(bench: Bench) -> None:
    assert request_of(bench, "val", 7, DONE)["training"] == {"tokens": 900, "seconds": 21.0}
    assert request_of(bench, "smoke", 7, None)["training"] == {"tokens": None, "seconds": None}


def test_a_failed_check_makes_the_result_invalid_and_leaves_its_value() -> None:
    failed = with_checks(VALID, (Check("budget", True), Check("recitation", False, "text")))
    assert failed.failure == Failure(FailureClass.INVALID, "recitation: text")
    assert (failed.valid, failed.value, len(failed.checks)) == (False, 1.0, 3)
    first = Failure(FailureClass.SHAPE, "shape: wrong")
    assert with_checks(replace(VALID, failure=first), (Check("budget", False, "x"),)).failure == first


def test_compute_is_on_record_when_it_passed() -> None:
    judged = with_compute_check(VALID, CpuReference(100.0, ()), 90.0)
    assert judged.valid
    assert judged.checks[-1] == Check("compute", True, "", 90.0)


def test_a_record_of_an_earlier_release_still_loads() -> None:
    record = {
        "metric": "val_loss", "value": 1.2, "direction": "min", "valid": True, "reasons": [], "checks": [], "seed": 1,
        "compute_ratio": 1.0, "train_cpu_s": 1.0, "train_wall_s": 1.0, "tokens": 5, "tree": "t",
        "checkpoint_sha256": "c", "env_version": "e", "evaluator_version": "v", "data_sha256": "d", "machine": "m",
    }  # fmt: skip
    old = load(Evaluation, json.dumps(record))
    assert (old.corpus, old.flags, old.worker_cpu_s) == ("", (), 0.0)
