"""Jobs of a preset that needs a GPU: each sees exactly its leased device, and no two that run at once share one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made_gpus import make_this_machine, wait_for_wishes

from xar_agent.cli.batch_plan import cores, default_parallel
from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import CapabilityMissing, Interrupted
from xar_agent.jobs.baseline import measure
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.fidelity import fidelity
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.smoke import run_smoke
from xar_agent.jobs.types import JobSpec, JobState
from xar_agent.jobs.worker import JobEvent
from xar_agent.sandbox.gpus import Gpus

pytestmark = pytest.mark.bwrap
Edit = Callable[..., str]
Wish = Callable[..., JobSpec]
N_GPUS = 2
LOOK = """
import glob, os, time
SEEN = sorted(glob.glob("/dev/nvidia[0-9]*"))
assert len(SEEN) == len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")) == 1, SEEN
"""
SAY = """
import atexit
print("GPU", *SEEN, time.time(), flush=True)
atexit.register(lambda: print("GPU", *SEEN, time.time(), flush=True))
"""
PROGRAMS = {
    "model.py": ('"""\n\nimport', f'"""\n{LOOK}\nimport'),
    "train.py": (
        "from stream import TokenStream\n",
        f"from stream import TokenStream\nfrom model import SEEN, time\n{SAY}",
    ),
}
"""The worker imports model.py too, so that a score says that it was in the same place."""


@pytest.fixture
def backend() -> str:
    """The one that shows single devices without an engine."""
    return "bubblewrap"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpus:
    """Two made devices as this machine's own."""
    return make_this_machine(monkeypatch, tmp_path, N_GPUS)


@pytest.fixture
def toy_copy(toy_copy: Path, gpus: Gpus) -> Path:
    """The small toy environment, said to need one."""
    text = (toy_copy / "env.toml").read_text()
    assert "gpus = 0" in text
    (toy_copy / "env.toml").write_text(text.replace("gpus = 0", "gpus = 1"))
    for name, (old, new) in PROGRAMS.items():
        path = toy_copy / "repo" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
    return toy_copy


def spans(store: RunStore, job_ids: list[str]) -> dict[str, list[tuple[float, float]]]:
    """By device, when each job had it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for job_id in job_ids:
        lines = (store.job_dir(job_id) / "stdout.log").read_text().splitlines()
        (_, node, begun), (_, same, ended) = (line.split() for line in lines if line.startswith("GPU"))
        assert node == same
        found.setdefault(node, []).append((float(begun), float(ended)))
    return found


def test_jobs_at_the_same_time_never_share_a_device(
    store: RunStore, bench: Bench, edit: Edit, wish: Wish, gpus: Gpus
) -> None:
    slow = edit({"train.py": ("step += 1", "step += 1; time.sleep(0.1)")})
    held: set[str] = set()

    def look(event: JobEvent) -> None:
        if event.kind == "evaluating":
            held.update(lease.name for lease in gpus.leases())

    with LocalEngine(store, bench, parallel=4) as engine:
        jobs = [engine.submit(wish(slow, seed)) for seed in range(1, 5)]
        done = engine.wait([job.id for job in jobs], look)
    assert [job.state for job in done] == [JobState.SUCCEEDED] * 4, [job.failure for job in done]
    used = spans(store, [job.id for job in jobs])
    assert set(used) == {"/dev/nvidia0", "/dev/nvidia1"}
    for times in used.values():
        for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False):
            assert earlier[1] < later[0]
    first, second = (sorted(times)[0] for times in used.values())
    assert max(first[0], second[0]) < min(first[1], second[1]), "two devices, and never two jobs at once"
    assert held <= {device.uuid for device in gpus.devices()}
    assert held
    assert gpus.leases() == ()


def test_a_job_that_waits_for_a_device_is_queued_and_can_be_cancelled(
    store: RunStore, bench: Bench, edit: Edit, wish: Wish, gpus: Gpus
) -> None:
    with gpus.lease(N_GPUS), LocalEngine(store, bench) as engine:
        job = engine.submit(wish(edit({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")})))
        wait_for_wishes(gpus, 1)
        assert store.job(job.id).state is JobState.QUEUED
        assert not (store.job_dir(job.id) / "start-1").exists()
        engine.cancel(job.id)
        begun = time.monotonic()
        (ended,) = engine.wait([job.id])
        assert time.monotonic() - begun < 2
    assert ended.state is JobState.CANCELLED
    assert not list(gpus.folder.glob("wait-*"))


def test_a_smoke_test_takes_a_lease_of_its_own_and_waits_for_it(bench: Bench, gpus: Gpus, tmp_path: Path) -> None:
    report = run_smoke(bench, bench.base_tree, log_path=tmp_path / "smoke.log")
    assert report.passed, report.failure
    assert gpus.leases() == ()
    cancel = threading.Event()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    with gpus.lease(N_GPUS), pytest.raises(Interrupted):
        run_smoke(bench, bench.base_tree, log_path=tmp_path / "smoke.log", cancel=cancel)
    timer.join()


def test_calibration_and_the_look_at_what_an_idea_changed_hold_a_device(
    store: RunStore, bench: Bench, edit: Edit, wish: Wish, gpus: Gpus
) -> None:
    assert 0 < measure(bench, 1.0, 7, cancel=None).value < 5
    same = edit({"train.py": ("step += 1", "step += 1; time.sleep(0)")})
    with LocalEngine(store, bench) as engine:
        done = engine.wait([engine.submit(wish(same)).id])
    for kept in (bench.run_dir / "probe").iterdir():
        kept.unlink()  # as after a run that is taken over: it must be measured again
    assert fidelity(bench, same, done, jobs_dir=store.dir / "jobs") == "no_effect"
    assert gpus.leases() == ()


def test_no_program_that_needs_a_device_starts_without_a_lease(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="needs a lease on 1 GPUs"):
        bench.sandbox_spec(tmp_path, name="train", gpus=True)
    assert bench.workspace_spec(tmp_path).gpus == ()
    with bench.leased() as leased:
        assert leased.sandbox_spec(tmp_path, name="train", gpus=True).gpus == leased.gpus
        assert leased.train_tokens is bench.train_tokens
        with leased.leased() as again:
            assert again is leased


def test_more_devices_than_the_machine_has_are_refused_before_anything_is_prepared(
    toy_copy: Path, store: RunStore, gpus: Gpus
) -> None:
    text = (toy_copy / "env.toml").read_text()
    (toy_copy / "env.toml").write_text(text.replace("gpus = 1", "gpus = 3"))
    with pytest.raises(CapabilityMissing, match="3 GPUs wanted, 2 can be used here"):
        open_bench(EnvSpec(toy_copy), "default", "bubblewrap", store.dir)
    (toy_copy / "env.toml").write_text(text)
    with pytest.raises(CapabilityMissing, match="the process sandbox cannot show"):
        open_bench(EnvSpec(toy_copy), "default", "process", store.dir)


def test_a_preset_without_gpus_never_asks_for_one(
    toy_copy: Path, store: RunStore, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (toy_copy / "env.toml").read_text()
    (toy_copy / "env.toml").write_text(text.replace("gpus = 1", "gpus = 0"))
    monkeypatch.setenv("XAR_FAKE_GPUS", "/nonexistent")
    plain = open_bench(EnvSpec(toy_copy), "default", "process", store.dir)
    with plain.leased() as leased:
        assert leased is plain
    assert not gpus.folder.exists()


def test_as_many_ideas_at_a_time_as_there_are_devices_for(toy_copy: Path, gpus: Gpus) -> None:
    env = EnvSpec(toy_copy)
    assert default_parallel(env, "default") == min(cores(), N_GPUS)
    text = (toy_copy / "env.toml").read_text()
    (toy_copy / "env.toml").write_text(text.replace("gpus = 1", "gpus = 2"))
    assert default_parallel(EnvSpec(toy_copy), "default") == 1
