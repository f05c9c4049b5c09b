"""A run on disk: one writer, many readers, and records that come back as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from xar_agent.errors import StoreError, UnknownName, UserError
from xar_agent.jobs.lock import is_active
from xar_agent.jobs.records import IdeaRecord, ImplementationRecord, Spend
from xar_agent.jobs.runs import RunStore, find_run, list_runs, request_cancel
from xar_agent.jobs.types import Check, Evaluation, Failure, FailureClass, Job, JobSpec, JobState, SmokeReport
from xar_agent.sandbox.protocol import Patch

SPEC = JobSpec("run", "idea", "toy", "default", 1, Patch("base", "diff -ä\n", ("train.py",), 1, 1, "sha"), "tree")
JOB = Job("job1", "key1", SPEC, JobState.QUEUED, 1, None, None)
FOUND = Evaluation(
    metric="val_loss",
    value=1.25,
    direction="min",
    valid=True,
    reasons=(),
    checks=(Check("shape", True), Check("prefix_audit", True, figure=0.5)),
    seed=1,
    compute_ratio=1.0,
    train_cpu_s=2.0,
    train_wall_s=3.0,
    tokens=4,
    tree="tree",
    checkpoint_sha256="c",
    env_version="e",
    evaluator_version="v",
    data_sha256="d",
    machine="m",
)
SMOKE = SmokeReport("sha", "tree", False, Failure(FailureClass.SHAPE, "no", "train.py", 3, "log"), 1.0, None, 2.0, 1.0)
MADE = ImplementationRecord(
    "idea",
    "submitted",
    "done",
    "tree",
    "impl/idea/patch.diff",
    "sha",
    "impl/idea/trajectory.jsonl",
    SMOKE,
    4,
    10,
    20,
    None,
    "m",
    9.5,
)

HOLD = """
import sys, time
from pathlib import Path
from xar_agent.jobs.runs import RunStore
store = RunStore.open_or_create(Path(sys.argv[1]), "run", {})
print("open", flush=True)
time.sleep(60)
"""


def test_run_json_says_what_was_run_and_holds_no_secret(runs_dir: Path, planted_key: str) -> None:
    settings = {"env": "toy", "seeds": [1, 2], "budget_usd": 3.0, "model": "m", "note": f"key {planted_key}"}
    with RunStore.create(runs_dir, None, settings) as store:
        record = store.record
    assert record["settings"]["env"] == "toy"
    assert record["seeds"] == [1, 2]
    assert record["budget"] == {"budget_usd": 3.0}
    assert record["versions"]["xar_agent"]
    assert isinstance(record["prompts"], dict)
    assert "git_commit" in record
    assert planted_key not in json.dumps(record)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 200, "a b"])
def test_names_that_are_no_folder_names_are_refused(runs_dir: Path, name: str) -> None:
    if not name:
        RunStore.create(runs_dir, name, {}).close()  # none given: it gets one from the date
        return
    with pytest.raises(UserError):
        RunStore.create(runs_dir, name, {})
    assert not list(runs_dir.iterdir())


def test_a_taken_name_is_refused_and_resumed_by_open_or_create(runs_dir: Path) -> None:
    with RunStore.open_or_create(runs_dir, "run", {"env": "toy"}) as store:
        store.add_idea(IdeaRecord("idea", "do it", "toy"))
    with pytest.raises(UserError, match="exists already"):
        RunStore.create(runs_dir, "run", {})
    with RunStore.open_or_create(runs_dir, "run", {"env": "other"}) as store:
        assert [idea.text for idea in store.ideas()] == ["do it"]
        assert store.record["settings"] == {"env": "other"}
        assert [one["settings"] for one in store.record["earlier_settings"]] == [{"env": "toy"}]


def test_a_second_driver_is_refused_with_the_firsts_process_id_and_readers_are_not(store: RunStore) -> None:
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}") as caught:
        RunStore.open(store.dir)
    assert caught.value.exit_code == 2
    store.add_idea(IdeaRecord("idea", "do it", "toy"))
    with RunStore.open(store.dir, read_only=True) as reader:
        assert len(reader.ideas()) == 1
        with pytest.raises(StoreError):
            reader.add_idea(IdeaRecord("other", "x", "toy"))
    assert is_active(store.dir)


def test_the_lock_goes_with_the_process_however_it_ends(runs_dir: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", HOLD, str(runs_dir)], stdout=subprocess.PIPE)
    assert driver.stdout
    with driver:
        assert driver.stdout.readline() == b"open\n"
        with pytest.raises(UserError, match=str(driver.pid)):
            RunStore.open(runs_dir, "run")
        driver.send_signal(signal.SIGKILL)
    RunStore.open(runs_dir, "run").close()


def test_everything_recorded_comes_back_as_it_was(store: RunStore) -> None:
    idea = IdeaRecord("idea", "do ä\n", "toy", ("p1", "p2"), "crossover", 3)
    spends = (Spend("idea", "model", "m", 1, 2, None, 0.0, 1.5), Spend("idea", "train", cpu_s=3.0))
    store.add_idea(idea)
    store.add_implementation(MADE)
    for spend in spends:
        store.add_spend(spend)
    store.add_job(JOB, "cache")
    assert store.record_evaluation("job1", 1, FOUND, "cache")
    with RunStore.open(store.dir, read_only=True) as reader:
        assert reader.ideas() == (idea,)
        assert reader.implementations("idea") == reader.implementations() == (MADE,)
        assert reader.spend() == spends
        assert reader.jobs() == (replace(JOB, state=JobState.SUCCEEDED, evaluation=FOUND),)
        assert reader.job_by_key("key1") == reader.job("job1")
        assert reader.cached_evaluation("cache") == FOUND
        assert reader.cached_evaluation("other") is None
        assert reader.finding("idea") is None


def test_an_implementation_and_its_bill_are_recorded_together_or_not_at_all(store: RunStore) -> None:
    bill = Spend("idea", "model", input_tokens=10, output_tokens=20)
    with pytest.raises(StoreError):
        store.add_implementation(MADE, replace(bill, kind=None))  # type: ignore[arg-type]
    assert store.implementations("idea") == ()
    store.add_implementation(MADE, bill)
    assert (store.implementations("idea"), store.spend("idea")) == ((MADE,), (bill,))


def test_a_finding_keeps_the_baseline_it_was_made_with(store: RunStore) -> None:
    store.record_finding("idea", "effect", None)
    store.record_finding("idea", "no_effect", None)
    found = store.finding("idea")
    assert found is not None
    assert (found.fidelity, found.baseline) == ("no_effect", None)


def test_the_late_result_of_a_superseded_attempt_is_kept_and_not_counted(store: RunStore) -> None:
    store.add_job(JOB, "cache")
    store.set_state("job1", JobState.LOST, Failure(FailureClass.INFRA, "gone"))
    assert store.start_attempt("job1") == 2
    assert not store.record_evaluation("job1", 1, FOUND, "cache")
    job = store.job("job1")
    assert (job.state, job.evaluation, job.failure) == (JobState.QUEUED, None, None)
    assert store.cached_evaluation("cache") is None
    later = replace(FOUND, value=2.0)
    assert store.record_evaluation("job1", 2, later, "cache")
    assert store.job("job1").evaluation == later


def test_jobs_that_were_under_way_are_lost_at_the_next_opening_and_others_stay(runs_dir: Path) -> None:
    states = {"a": JobState.RUNNING, "b": JobState.CANCELLING, "c": JobState.QUEUED, "d": JobState.FAILED}
    with RunStore.create(runs_dir, "run", {}) as store:
        for job_id, state in states.items():
            store.add_job(replace(JOB, id=job_id, key=job_id), "cache")
            store.set_state(job_id, state)
    with RunStore.open(runs_dir, "run", read_only=True) as reader:
        assert reader.job("a").state is JobState.RUNNING
    with RunStore.open(runs_dir, "run") as store:
        found = {job.id: job.state for job in store.jobs()}
        assert found == {"a": JobState.LOST, "b": JobState.LOST, "c": JobState.QUEUED, "d": JobState.FAILED}
        failure = store.job("a").failure
        assert failure is not None
        assert (failure.kind, "driver ended" in failure.reason) == (FailureClass.INFRA, True)


def test_an_unknown_run_or_job_is_named_with_what_there_is(store: RunStore) -> None:
    with pytest.raises(UnknownName, match="no run 'nope'") as caught:
        find_run(store.dir.parent, "nope")
    assert "run" in caught.value.hint
    with pytest.raises(UnknownName, match="no job 'nope'"):
        store.job("nope")


def test_the_list_of_runs_shows_the_newest_first_and_passes_over_what_is_no_run(runs_dir: Path) -> None:
    for name in ("one", "two"):
        with RunStore.create(runs_dir, name, {"env": "toy", "preset": "default", "model": "m"}) as store:
            store.add_job(JOB, "cache")
            store.record_evaluation("job1", 1, FOUND, "cache")
    (runs_dir / "junk").mkdir()
    (runs_dir / "junk" / "run.json").write_text("{")
    (runs_dir / "file").write_text("x")
    two, one = list_runs(runs_dir)
    assert (two.name, one.name, two.env, two.model) == ("two", "one", "toy", "m")
    assert (dict(two.jobs), two.valid, two.ideas, two.active) == ({"succeeded": 1}, 1, 0, False)


def test_scores_on_the_hidden_split_are_not_counted_as_the_searchs(runs_dir: Path) -> None:
    hidden = replace(JOB, id="job2", key="key2", spec=replace(SPEC, split="hidden"))
    with RunStore.create(runs_dir, "r", {"env": "toy"}) as store:
        for job in (JOB, hidden):
            store.add_job(job, job.id)
            store.record_evaluation(job.id, 1, FOUND, job.id)
        assert (store.counts().valid, dict(store.counts().jobs)) == (1, {"succeeded": 2})
    assert list_runs(runs_dir)[0].valid == 1


def test_a_request_from_elsewhere_is_taken_once(store: RunStore) -> None:
    request_cancel(store.dir, "job1")
    assert store.take_requests() == ("job1",)
    assert store.take_requests() == ()


def test_threads_of_the_driver_take_turns(store: RunStore) -> None:
    def record(i: int) -> None:
        for n in range(20):
            store.add_spend(Spend(str(i), "model", input_tokens=n))

    threads = [threading.Thread(target=record, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.spend()) == 120


def test_a_run_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError):
        RunStore.create(tmp_path / "file" / "runs", "run", {})
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from xar_agent.jobs.runs import RunStore; from xar_agent.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: RunStore.create(Path(sys.argv[1]), 'run', {})\n"
        "except StoreError: print('StoreError')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "runs")], capture_output=True, text=True, check=False
    )
    assert done.stdout == "StoreError\n", done.stderr
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_in_a_read_only_folder_can_be_read(runs_dir: Path) -> None:
    RunStore.create(runs_dir, "run", {}).close()
    (runs_dir / "run").chmod(0o555)
    with RunStore.open(runs_dir, "run", read_only=True) as reader:
        assert reader.jobs() == ()
    (runs_dir / "run").chmod(0o755)


def test_a_request_for_an_attempt_that_has_ended_does_not_cancel_the_next_one(runs_dir: Path) -> None:
    with RunStore.create(runs_dir, "run", {}) as store:
        request_cancel(store.dir, "job1")
    with RunStore.open(runs_dir, "run") as store:
        assert store.take_requests() == ()


def test_a_job_that_has_ended_is_not_cancelled_any_more(store: RunStore) -> None:
    store.add_job(JOB, "cache")
    assert store.begin_cancel("job1")
    assert store.job("job1").state is JobState.CANCELLING
    store.record_evaluation("job1", 1, FOUND, "cache")
    assert not store.begin_cancel("job1")
    assert store.job("job1").state is JobState.SUCCEEDED


def test_half_a_character_in_an_idea_or_a_failure_can_be_recorded(store: RunStore) -> None:
    store.add_idea(IdeaRecord("idea", "do \udc80", "toy"))
    store.add_spend(Spend("idea", "model", "m\ud800"))
    store.add_job(JOB, "cache")
    store.set_state("job1", JobState.FAILED, Failure(FailureClass.CODE, "Exception: \ud800"))
    failure = store.job("job1").failure
    assert failure is not None
    assert (store.ideas()[0].text, store.spend()[0].model, failure.reason) == ("do ?", "m?", "Exception: ?")


def test_only_an_empty_folder_or_leftovers_of_a_run_become_a_run(runs_dir: Path) -> None:
    (runs_dir / "mine").mkdir()
    (runs_dir / "mine" / "notes.txt").write_text("x")
    (runs_dir / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(UserError, match="is no run"):
            RunStore.create(runs_dir, name, {})
    assert [path.name for path in (runs_dir / "mine").iterdir()] == ["notes.txt"]
    (runs_dir / "cut").mkdir()
    (runs_dir / "cut" / "driver.lock").touch()
    with RunStore.create(runs_dir, "cut", {}) as left, RunStore.create(runs_dir, "new", {}) as fresh:
        assert (left.made_folder, fresh.made_folder) == (False, True)
