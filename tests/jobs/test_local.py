"""The engine: every state on record, nothing run twice, nothing alive after its driver."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import StoreError
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.local import LocalEngine, cache_key, idempotency_key
from xar_agent.jobs.runs import RunStore, request_cancel
from xar_agent.jobs.types import FailureClass, Job, JobSpec, JobState
from xar_agent.jobs.worker import JobEvent

Edit = Callable[..., str]
Wish = Callable[..., JobSpec]
SLOW = {"train.py": ("step += 1", "step += 1; import time; time.sleep(1.0)")}

DRIVER = """
import sys
from pathlib import Path
from xar_agent.envs.spec import EnvSpec
from xar_agent.jobs.bench import open_bench
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import JobSpec
from xar_agent.sandbox import tree

env, runs, backend, pause = EnvSpec(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
with RunStore.open_or_create(runs, "run", {}) as store:
    bench = open_bench(env, "default", backend, store.dir)
    with bench.scratch_folder("edit") as folder:
        workspace = bench.checkout(bench.base_tree, folder)
        path = workspace / "train.py"
        path.write_text(path.read_text().replace("step += 1", f"step += 1; import time; time.sleep({pause})"))
        changed = tree.snapshot(bench.git_store, workspace)
    spec = JobSpec("run", "idea", env.name, "default", 1, bench.diff(changed), changed)
    with LocalEngine(store, bench) as engine:
        job = engine.submit(spec)
        print(job.id, flush=True)
        (job,) = engine.wait([job.id], lambda event: print(event.kind, flush=True))
        print(job.state, job.attempt, job.evaluation is not None, flush=True)
"""


def alive(marker: str) -> set[int]:
    """Processes with the word in their command line, here or inside a sandbox."""
    return {p.pid for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])}


def test_a_job_goes_from_patch_to_record(store: RunStore, bench: Bench, edit: Edit, wish: Wish) -> None:
    events: list[JobEvent] = []
    with LocalEngine(store, bench) as engine:
        job = engine.submit(wish(edit({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")})))
        (done,) = engine.wait([job.id], events.append)
    assert done.state is JobState.SUCCEEDED, done.failure
    found = done.evaluation
    assert found is not None
    assert found.valid
    assert found.value is not None
    assert 0 < found.value < 5
    assert (found.tokens, found.seed, found.reasons) == (4096, 1, ())
    assert found.train_cpu_s > 0
    assert 0.3 < found.compute_ratio < 3
    by_evaluator = ["shape", "finite", "normalised", "prefix_audit", "stateless"]
    by_host = ["compute", "protected_files", "budget", "recitation"]
    assert [check.name for check in found.checks] == by_evaluator + by_host
    kinds = [event.kind for event in events if event.kind != "metric"]
    assert kinds == ["started", "training_done", "evaluating", "done"]
    job_dir = store.job_dir(job.id)
    record = json.loads((job_dir / "evaluation.json").read_text())
    assert (record["value"], record["attempt"]) == (found.value, 1)
    assert record["audit_seed"] >= 0
    assert json.loads((job_dir / "spec.json").read_text())["tree"] == found.tree
    assert (job_dir / "metrics.jsonl").read_text().count("\n") == 4
    assert (job_dir / "stdout.log").exists()
    assert not list(bench.scratch.iterdir())


def test_a_strict_umask_is_in_nobodys_way(runs_dir: Path, toy_copy: Path, backend: str) -> None:
    before = os.umask(0o077)
    try:
        with RunStore.create(runs_dir, "run", {}) as store:
            bench = open_bench(EnvSpec(toy_copy), "default", backend, store.dir)
            nothing = bench.diff(bench.base_tree)
            spec = JobSpec("run", "idea", "toy", "default", 1, nothing, bench.base_tree)
            with LocalEngine(store, bench) as engine:
                (job,) = engine.wait([engine.submit(spec).id])
    finally:
        os.umask(before)
    assert job.evaluation is not None, job.failure
    assert job.evaluation.valid


def test_the_same_wish_is_one_job_and_the_same_tree_is_measured_once(store: RunStore, bench: Bench, wish: Wish) -> None:
    spec, other_idea = wish(bench.base_tree), wish(bench.base_tree, idea_id="other")
    assert idempotency_key(spec, bench) != idempotency_key(other_idea, bench)
    assert cache_key(spec, bench) == cache_key(other_idea, bench)
    with LocalEngine(store, bench, parallel=2) as engine:
        ids = [engine.submit(spec).id for _ in range(3)]
        assert len(set(ids)) == 1
        (first,) = engine.wait(ids[:1])
        begun = time.monotonic()
        again = engine.submit(spec)
        (copied,) = engine.wait([engine.submit(other_idea).id])
        assert time.monotonic() - begun < 1
    assert again == first
    assert copied.id != first.id
    assert copied.evaluation == first.evaluation
    assert len(store.jobs()) == 2


def test_the_same_seed_gives_the_same_score_and_another_seed_another(store: RunStore, bench: Bench, wish: Wish) -> None:
    with LocalEngine(store, bench) as engine:
        jobs = engine.wait([engine.submit(wish(bench.base_tree, seed)).id for seed in (1, 2)])
    one, two = (job.evaluation.value for job in jobs if job.evaluation)
    assert one != two
    with RunStore.create(store.dir.parent, "second", {}) as fresh, LocalEngine(fresh, bench) as engine:
        (again,) = engine.wait([engine.submit(wish(bench.base_tree, 1)).id])
    assert again.evaluation is not None
    assert again.evaluation.value == one


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_failed_job_stays_failed_and_says_why(store: RunStore, bench: Bench, edit: Edit, wish: Wish) -> None:
    spec = wish(edit({"train.py": ("step += 1", "step += 1 / 0")}))
    with LocalEngine(store, bench) as engine:
        (job,) = engine.wait([engine.submit(spec).id])
        assert engine.submit(spec) == job
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert (job.failure.kind, job.failure.file) == (FailureClass.CODE, "train.py")
    assert job.evaluation is None


def test_cancelling_ends_a_running_job_and_submitting_again_makes_a_new_attempt(
    store: RunStore, bench: Bench, edit: Edit, wish: Wish, marker: str
) -> None:
    spec = wish(edit(SLOW))
    with LocalEngine(store, bench) as engine:
        job = engine.submit(spec)
        started = threading.Event()

        def hear(event: JobEvent) -> None:
            if event.kind == "metric":
                started.set()

        waiting = threading.Thread(target=engine.wait, args=([job.id], hear))
        waiting.start()
        assert started.wait(30)
        assert alive(marker)
        begun = time.monotonic()
        request_cancel(store.dir, job.id)
        waiting.join(10)
        assert not waiting.is_alive()
        assert time.monotonic() - begun < 5
        assert store.job(job.id).state is JobState.CANCELLED
        assert not alive(marker)
        again = engine.submit(spec)
        assert (again.id, again.attempt, again.state) == (job.id, 2, JobState.QUEUED)
    assert store.job(job.id).state is JobState.CANCELLED


def test_a_tree_that_the_patch_does_not_give_is_refused(store: RunStore, bench: Bench, edit: Edit, wish: Wish) -> None:
    one, two = wish(edit({"train.py": ("BATCH_SIZE = 8", "BATCH_SIZE = 4")})), wish(bench.base_tree)
    mixed = JobSpec(one.run, "idea", one.env, one.preset, 1, two.patch, one.tree)
    with LocalEngine(store, bench) as engine:
        (job,) = engine.wait([engine.submit(mixed).id])
    assert job.failure is not None
    assert job.failure.kind is FailureClass.INTEGRITY


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_records_that_cannot_be_written_end_the_wait_with_the_reason(
    store: RunStore, bench: Bench, wish: Wish, marker: str
) -> None:
    with LocalEngine(store, bench) as engine:
        job = engine.submit(wish(bench.base_tree))
        (store.job_dir(job.id) / "metrics.jsonl").mkdir()
        with pytest.raises(StoreError, match="cannot run the job"):
            engine.wait([job.id])
    assert not alive(marker)


def start_driver(toy_copy: Path, runs_dir: Path, backend: str, pause: float) -> subprocess.Popen[str]:
    """A driver of its own, as the command line would be."""
    command = [sys.executable, "-c", DRIVER, str(toy_copy), str(runs_dir), backend, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(driver: subprocess.Popen[str], word: str) -> list[str]:
    """What it printed up to a line that begins with the word."""
    assert driver.stdout
    lines = []
    for line in driver.stdout:
        lines.append(line.strip())
        if line.startswith(word):
            return lines
    assert driver.stderr
    pytest.fail(f"the driver ended: {lines} {driver.stderr.read()}")


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_driver_and_the_same_command_goes_on(
    toy_copy: Path, runs_dir: Path, backend: str, ending: signal.Signals, marker: str
) -> None:
    with start_driver(toy_copy, runs_dir, backend, 0.2) as driver:
        read_until(driver, "metric")
        assert alive(marker)
        driver.send_signal(ending)
        driver.communicate(timeout=20)
    deadline = time.monotonic() + 5
    while (left := alive(marker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    with RunStore.open(runs_dir, "run", read_only=True) as reader:
        state = reader.jobs()[0].state
    assert state is (JobState.RUNNING if ending is signal.SIGKILL else JobState.CANCELLED)
    RunStore.open(runs_dir, "run").close()
    with RunStore.open(runs_dir, "run", read_only=True) as reader:
        job = reader.jobs()[0]
    assert job.state is (JobState.LOST if ending is signal.SIGKILL else JobState.CANCELLED)
    assert job.failure is not None
    assert job.failure.kind is FailureClass.INFRA
    with start_driver(toy_copy, runs_dir, backend, 0.2) as driver:
        out, err = driver.communicate(timeout=120)
    assert out.splitlines()[-1] == "succeeded 2 True", err


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_training_is_paid_for_once_for_each_real_attempt(store: RunStore, bench: Bench, edit: Edit, wish: Wish) -> None:
    crash = edit({"train.py": ("    save(model", "    raise SystemExit(3)\n    save(model")})
    with LocalEngine(store, bench) as engine:
        for spec in (wish(bench.base_tree), wish(bench.base_tree, idea_id="copy"), wish(crash, idea_id="crash")):
            engine.wait([engine.submit(spec).id])
    assert [job.state for job in store.jobs()] == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED]
    spent = store.spend()
    assert [(s.idea_id, s.kind) for s in spent] == [("idea", "train"), ("crash", "train")]
    assert all(s.cpu_s > 0.01 for s in spent)


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_what_nobody_foresaw_in_one_job_does_not_end_another(store: RunStore, bench: Bench, wish: Wish) -> None:
    def unforeseen(event: JobEvent) -> None:
        raise ArithmeticError(event.kind)

    with LocalEngine(store, bench) as engine:
        with pytest.raises(ArithmeticError):
            engine.wait([engine.submit(wish(bench.base_tree, 1)).id], unforeseen)
        (other,) = engine.wait([engine.submit(wish(bench.base_tree, 2)).id], lambda event: None)
        (again,) = engine.wait([engine.submit(wish(bench.base_tree, 1)).id], lambda event: None)
    assert (other.state, again.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_result_on_disk_is_not_trained_again_when_its_driver_was_killed_before_it_was_recorded(
    toy_copy: Path, runs_dir: Path, backend: str
) -> None:
    def measured(store: RunStore, events: list[JobEvent]) -> Job:
        bench = open_bench(EnvSpec(toy_copy), "default", backend, store.dir)
        spec = JobSpec("run", "idea", "toy", "default", 1, bench.diff(bench.base_tree), bench.base_tree)
        with LocalEngine(store, bench) as engine:
            return engine.wait([engine.submit(spec).id], events.append)[0]

    with RunStore.create(runs_dir, "run", {}) as store:
        first = measured(store, [])
        spent = store.spend()
    with sqlite3.connect(runs_dir / "run" / "xar.db") as db:  # as it was just before the result was recorded
        db.execute("DELETE FROM evaluations")
        db.execute("DELETE FROM spend")
        db.execute("UPDATE jobs SET state = 'running'")
    db.close()
    events: list[JobEvent] = []
    with RunStore.open(runs_dir, "run") as store:
        again = measured(store, events)
        assert (again.state, again.attempt, again.evaluation) == (JobState.SUCCEEDED, 1, first.evaluation)
        assert [row.kind for row in store.spend()] == [row.kind for row in spent] == ["train"]
        assert measured(store, events) == again
        assert len(store.spend()) == 1
    assert events == []
