"""Training data as a folder: bound read-only, and the wall clock of the program is the budget."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import ConfigError, SandboxLost
from xar_agent.jobs.baseline import calibrate
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.confirm import confirm_patch
from xar_agent.jobs.fidelity import fidelity
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.probe import UNCOUNTED, cpu_reference
from xar_agent.jobs.records import IdeaRecord
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.smoke import run_smoke, smoke_budget
from xar_agent.jobs.training import TrainingPlan, train
from xar_agent.jobs.types import FailureClass, JobSpec, JobState
from xar_agent.jobs.worker import JobEvent, run_job

Edit = Callable[..., str]
Wish = Callable[..., JobSpec]
BUDGET_S = 2
READER = '''
"""Rows of the training folder, in order, until the seconds are used up."""

import os
import time
from array import array
from pathlib import Path


class TokenStream:
    def __init__(self):
        self.budget = int(os.environ["XAR_BUDGET"])
        self.tokens = array("H", Path(os.environ["XAR_DATA"], "train.bin").read_bytes())
        self.began, self.at = time.monotonic(), 0

    @property
    def left(self):
        return max(0.0, self.budget - (time.monotonic() - self.began) - 0.3) if self.at < 8192 else 0

    @property
    def fraction_used(self):
        return self.at / 8192

    def read(self, rows, length):
        taken = array("H")
        for _ in range(rows if self.left else 0):
            taken += self.tokens[self.at : self.at + length + 1]
            self.at += length
        return taken

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass
'''


@pytest.fixture
def budget_s() -> int:
    """Seconds of the preset; a test may ask for others."""
    return BUDGET_S


@pytest.fixture
def toy_copy(toy_copy: Path, budget_s: int) -> Path:
    """The small toy environment with its data as a folder and two seconds of training; no CPU cap."""
    text = (toy_copy / "env.toml").read_text()
    changes = {
        "budget = 4096": f"budget = {budget_s}",
        'clock = "tokens"': 'clock = "seconds"\ndata = "folder"',
        "cpu_cap_s = 2.0\n": "",
        "smoke_tokens = 2048": "smoke_seconds = 1",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (toy_copy / "env.toml").write_text(text)
    (toy_copy / "repo" / "stream.py").write_text(READER)
    train_py = toy_copy / "repo" / "train.py"
    train_py.write_text(train_py.read_text().replace("stream.budget - stream.left", "stream.at"))
    return toy_copy


@pytest.fixture
def capped(toy_copy: Path) -> None:
    """With a reference for CPU seconds."""
    text = (toy_copy / "env.toml").read_text()
    (toy_copy / "env.toml").write_text(text.replace("wall_s =", "cpu_cap_s = 2.0\nwall_s ="))


def test_a_job_trains_from_the_folder_and_its_clock_is_the_wall(
    bench: Bench, store: RunStore, wish: Wish, tmp_path: Path
) -> None:
    events: list[JobEvent] = []
    outcome = run_job(bench, wish(bench.base_tree), tmp_path / "job", on_event=events.append)
    assert outcome.state is JobState.SUCCEEDED, outcome.failure
    found = outcome.evaluation
    assert found is not None
    assert found.valid, found.reasons
    assert found.tokens == 0
    assert 0 < found.compute_ratio == pytest.approx(found.train_wall_s / BUDGET_S, abs=0.5)
    assert {(event.clock, event.budget) for event in events if event.kind != "done"} == {("seconds", BUDGET_S)}
    assert events[-2].used > 0


def test_the_folder_can_be_read_and_not_written(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    look = (
        "    folder = os.environ['XAR_DATA']\n    print('SEEN', sorted(os.listdir(folder)))\n"
        "    try: open(os.path.join(folder, 'mine'), 'w')\n    except OSError as error: print('WRITE', error.errno)\n"
        "    print('XAR', sorted(os.listdir('/xar')) if os.path.isdir('/xar') else folder)\n"
    )
    tree = edit({"train.py": ('    out = Path("out")\n', f'    out = Path("out")\n{look}')})
    log = tmp_path / "log"
    with bench.scratch_folder("test") as folder:
        training = train(bench, TrainingPlan.of(bench, tree, 1), folder / "train", log_path=log)
    assert training.failure is None
    assert "SEEN ['meta.json', 'train.bin']" in log.read_text()
    if bench.backend == "bubblewrap":
        assert "WRITE 30" in log.read_text()
        assert "XAR ['data', 'launch.py']" in log.read_text()


@pytest.mark.parametrize("budget_s", [60])  # the program ends by itself when it has read everything
@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_without_a_cap_nothing_is_probed_and_fidelity_knows_only_what_repeats(
    bench: Bench, store: RunStore, edit: Edit, wish: Wish
) -> None:
    assert cpu_reference(bench, 1) is UNCOUNTED
    same = edit({"train.py": ("step += 1", "step += 1; time = 0")})
    other = edit({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 2.0")})
    with LocalEngine(store, bench) as engine:
        found = {t: engine.wait([engine.submit(wish(t)).id]) for t in (same, other)}
    assert fidelity(bench, same, found[same], jobs_dir=store.dir / "jobs") == "no_effect"
    assert fidelity(bench, other, found[other], jobs_dir=store.dir / "jobs") == "unknown"
    assert not (store.dir / "probe").exists()


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_cap_is_measured_by_one_whole_run_and_bites(
    capped: None, bench: Bench, edit: Edit, wish: Wish, tmp_path: Path
) -> None:
    reference = cpu_reference(bench, 1)
    assert 0.05 < reference.baseline_cpu_s < 5
    assert reference.first_losses
    greedy = edit({"train.py": ('out = Path("out")\n', 'out = Path("out")\n    while True: pass\n')})
    outcome = run_job(bench, wish(greedy), tmp_path / "job")
    assert outcome.failure is not None
    assert (outcome.failure.kind, "CPU" in outcome.failure.reason) == (FailureClass.TIMEOUT, True)


def test_a_baseline_that_does_not_train_from_the_folder_is_the_houses_fault(
    capped: None, toy_copy: Path, store: RunStore
) -> None:
    (toy_copy / "repo" / "train.py").write_text("raise SystemExit(3)\n")
    broken = open_bench(EnvSpec(toy_copy), "default", "process", store.dir)
    with pytest.raises(SandboxLost, match="unchanged repository"):
        cpu_reference(broken, 1)


def test_a_smoke_test_has_the_seconds_that_the_preset_gives_it(bench: Bench, tmp_path: Path) -> None:
    report = run_smoke(bench, bench.base_tree, log_path=tmp_path / "smoke.log")
    assert report.passed, report.failure
    assert smoke_budget(bench.preset) == 1
    without = bench.preset.model_copy(update={"settings": {}, "budget": 600})
    assert (smoke_budget(without), smoke_budget(without.model_copy(update={"budget": 20}))) == (30, 2)


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_program_that_goes_on_after_its_seconds_is_ended_with_the_overtime_in_the_reason(
    bench: Bench, edit: Edit, tmp_path: Path
) -> None:
    slow = edit({"train.py": ('out = Path("out")\n', 'out = Path("out")\n    import time; time.sleep(50)\n')})
    plan = replace(TrainingPlan.of(bench, slow, 1, budget=1), overtime_s=2.0)
    begun = time.monotonic()
    with bench.scratch_folder("test") as folder:
        training = train(bench, plan, folder / "train", log_path=tmp_path / "log")
    assert training.failure is not None
    assert training.failure.kind is FailureClass.TIMEOUT
    assert "after its budget of 1 s (2 s are for saving and ending)" in training.failure.reason
    assert 3 <= time.monotonic() - begun < 40
    assert training.checkpoint is None


def test_nobody_counts_the_tokens_of_a_folder(toy_copy: Path, store: RunStore) -> None:
    text = (toy_copy / "env.toml").read_text()
    for clock, said in (("tokens", "tokens of a folder"), ("rollouts", "nobody who counts")):
        (toy_copy / "env.toml").write_text(text.replace('clock = "seconds"', f'clock = "{clock}"'))
        with pytest.raises(ConfigError, match=said):
            open_bench(EnvSpec(toy_copy), "default", "process", store.dir)


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_calibration_and_confirmation_work_on_a_folder(bench: Bench, store: RunStore, edit: Edit) -> None:
    hidden = calibrate(bench, 5, split="hidden", compute=(1.0,))
    assert [point.compute for point in hidden.curve] == [1.0]
    store.add_idea(IdeaRecord("idea", "slower", "toy"))
    tree = edit({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 0.001")})
    found = confirm_patch(store, bench, None, "idea", bench.diff(tree), tree, seeds=3)
    assert (found.verdict, found.reasons, found.fidelity) == ("not_confirmed", (), "unknown")
    assert found.gain is not None
    assert found.gain < 0
    assert found.baseline == hidden


def test_the_curve_of_a_folder_run_is_the_programs_own(bench: Bench, wish: Wish, tmp_path: Path) -> None:
    run_job(bench, wish(bench.base_tree), tmp_path / "job")
    lines = [json.loads(line) for line in (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["tokens"] == 8192
