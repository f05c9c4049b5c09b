"""Jobs with candidates that misbehave: each limit bites, each trick is seen, nothing of the host is within reach."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xar_agent.errors import StoreError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.probe import CAP_ALLOWANCE_S, CAP_FACTOR, FRESH_S, cpu_reference
from xar_agent.jobs.records import dump
from xar_agent.jobs.training import TrainingPlan, train
from xar_agent.jobs.types import FailureClass, JobSpec, JobState
from xar_agent.jobs.watch import Progress
from xar_agent.jobs.worker import JobOutcome, run_job

Edit = Callable[..., str]
Wish = Callable[..., JobSpec]
FORGED_FRAME = """
import os
for fd in range(3, 10):
    try: os.write(fd, b'{"op": "ready", "nbytes": 9999999999}\\n' * 9)
    except OSError: pass
"""
LOOK = """
import os, socket, sys
def seen(path):
    try: return os.listdir(path)
    except OSError: return None
def read(path):
    try: return open(path, "rb").read()
    except OSError as error: return error
print("DATA", [seen(p) for p in PLACES])
print("XAR", sorted(os.listdir("/xar")))
print("ENV", dict(os.environ), [read(f"/proc/{p}/environ") for p in os.listdir("/proc") if p.isdigit()])
try: socket.create_connection(("127.0.0.1", 22), 1); print("NET yes")
except OSError as error: print("NET", error.errno)
sys.exit(4)
"""
START = ('out = Path("out")\n', 'out = Path("out")\n    hostile()\n')


@pytest.fixture
def short_wall(toy_copy: Path) -> None:
    """The environment allows six seconds."""
    text = (toy_copy / "env.toml").read_text()
    assert "wall_s = 60.0" in text
    (toy_copy / "env.toml").write_text(text.replace("wall_s = 60.0", "wall_s = 6.0"))


@pytest.fixture
def run(bench: Bench, edit: Edit, wish: Wish, tmp_path: Path) -> Callable[..., JobOutcome]:
    """``run(hostile="def hostile(): ...")`` or ``run({"train.py": ("old", "new")})`` -> how its job ended."""

    def start(changes: dict[str, tuple[str, str]] | None = None, hostile: str = "") -> JobOutcome:
        if hostile:
            body = "\n".join(f"    {line}" for line in hostile.splitlines())
            with bench.scratch_folder("read") as folder:
                text = (bench.checkout(bench.base_tree, folder) / "train.py").read_text()
            assert START[0] in text
            source = text.replace(*START).replace("def main()", f"def hostile():\n{body}\n\n\ndef main()")
            return run_job(bench, wish(edit({"train.py": source})), tmp_path / "job")
        return run_job(bench, wish(edit(changes)), tmp_path / "job")

    return start


Run = Callable[..., JobOutcome]


def test_endless_training_is_ended_by_the_cpu_cap(run: Run, bench: Bench) -> None:
    cap_s = cpu_reference(bench, 1).cap_s
    begun = time.monotonic()
    outcome = run(hostile="while True: pass")
    assert outcome.state is JobState.TIMED_OUT
    assert outcome.failure is not None
    assert (outcome.failure.kind, "CPU" in outcome.failure.reason) == (FailureClass.TIMEOUT, True)
    assert time.monotonic() - begun < 4 * cap_s + 20


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_sleeping_training_is_ended_by_the_wall_limit(short_wall: None, run: Run) -> None:
    outcome = run(hostile="import time; time.sleep(100)")
    assert outcome.failure is not None
    assert (outcome.state, outcome.failure.kind) == (JobState.TIMED_OUT, FailureClass.TIMEOUT)
    assert "6 seconds" in outcome.failure.reason


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_program_that_gives_itself_a_larger_budget_is_served_the_hosts(run: Run, bench: Bench) -> None:
    outcome = run(hostile="os.environ['XAR_BUDGET'] = '1000000000'")
    assert outcome.evaluation is not None, outcome.failure
    assert outcome.evaluation.tokens == bench.preset.budget


def test_too_much_memory_is_oom(run: Run) -> None:
    outcome = run(hostile="x = [b'1' * 10**8 for _ in range(100)]\nraise SystemExit(6)")
    assert outcome.state is JobState.OOM, outcome.failure
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureClass.OOM


def test_a_protected_file_that_training_changes_is_noticed(run: Run) -> None:
    outcome = run({"train.py": ("    save(model", "    Path('stream.py').write_text('#')\n    save(model")})
    assert outcome.failure is not None
    assert (outcome.state, outcome.failure.kind) == (JobState.FAILED, FailureClass.INTEGRITY)
    assert "stream.py" in outcome.failure.reason


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_model_that_training_rewrites_is_not_the_one_that_is_scored(
    run: Run, bench: Bench, wish: Wish, tmp_path: Path
) -> None:
    honest = run_job(bench, wish(bench.base_tree), tmp_path / "honest").evaluation
    cheat = "    Path('model.py').write_text('raise SystemExit')\n    save(model"
    outcome = run({"train.py": ("    save(model", cheat)})
    assert honest is not None
    assert outcome.evaluation is not None
    assert outcome.evaluation.value == honest.value


def test_a_checkpoint_that_is_a_link_is_refused(run: Run) -> None:
    outcome = run(
        {
            "train.py": (
                'save(model, str(out / "checkpoint.json"))',
                "(out / 'checkpoint.json').symlink_to('/etc/passwd')",
            )
        }
    )
    assert outcome.failure is not None
    assert (outcome.failure.kind, "link" in outcome.failure.reason) == (FailureClass.CONTRACT, True)


def test_what_outlives_training_is_killed_before_the_checkpoint_is_taken(run: Run) -> None:
    late = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(3)\n"
        "    os.makedirs('out', exist_ok=True)\n"
        "    open('out/checkpoint.json', 'w').write('{}')\n"
        "    os._exit(0)\n"
        "os._exit(0)"
    )
    outcome = run(hostile=late)
    assert outcome.failure is not None
    assert "no out/checkpoint" in outcome.failure.reason


def test_a_flood_of_output_and_curve_is_bounded(run: Run, tmp_path: Path) -> None:
    flood = (
        "out = Path('out'); out.mkdir(exist_ok=True)\n"
        "import os\n"
        "for _ in range(300): os.write(1, b'x' * 1_000_000)\n"
        '(out / \'metrics.jsonl\').write_text(\'{"step": 1, "tokens": 2, "loss": 3.0}\\n\' * 1_000_000)\n'
        "raise SystemExit(5)"
    )
    outcome = run(hostile=flood)
    assert outcome.state is not JobState.SUCCEEDED
    assert (tmp_path / "job" / "stdout.log").stat().st_size <= 65 << 20
    assert (tmp_path / "job" / "metrics.jsonl").stat().st_size <= 17 << 20


def test_a_model_that_sees_the_future_is_invalid_and_its_result_is_kept(run: Run, tmp_path: Path) -> None:
    outcome = run({"model.py": ("contexts(row, t)) for t", "contexts(row, min(t + 1, len(row) - 1))) for t")})
    assert outcome.state is JobState.SUCCEEDED
    assert outcome.evaluation is not None
    assert not outcome.evaluation.valid
    assert any("prefix_audit" in reason for reason in outcome.evaluation.reasons)
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureClass.INVALID
    assert json.loads((tmp_path / "job" / "evaluation.json").read_text())["valid"] is False


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("raise RuntimeError('boom')", FailureClass.CONTRACT),
        ("import os; os._exit(0)", FailureClass.CONTRACT),
        (FORGED_FRAME, FailureClass.CONTRACT),
        ("return lambda idx: [[[float('nan')] * 28 for _ in row] for row in idx]", FailureClass.NAN),
        ("return lambda idx: [[[0.0] * 27 for _ in row] for row in idx]", FailureClass.SHAPE),
        (
            "return lambda idx: [[[1e30 * (i == 3) for i in range(28)] for _ in row] for row in idx]",
            FailureClass.INVALID,
        ),
        ("return lambda idx: 'x' * 10**6", FailureClass.CONTRACT),
    ],
)
@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_model_that_breaks_the_contract_is_an_invalid_result(run: Run, model: str, kind: FailureClass) -> None:
    body = "\n".join(f"    {line}" for line in model.splitlines())
    outcome = run({"model.py": ('    return NgramModel(json.loads(Path(path).read_text(encoding="utf-8")))', body)})
    assert outcome.state is JobState.SUCCEEDED, outcome.failure
    assert outcome.evaluation is not None
    assert not outcome.evaluation.valid
    assert outcome.failure is not None
    assert outcome.failure.kind is kind, outcome.failure


@pytest.mark.bwrap
@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
def test_neither_validation_text_nor_host_nor_network_is_within_reach(
    run: Run, bench: Bench, tmp_path: Path, planted_key: str
) -> None:
    places = [str(bench.data.folder), str(tmp_path), "/xar/validation", str(Path.home())]
    look = f"PLACES = {places!r}{LOOK}"
    assert run(hostile=look).state is JobState.FAILED
    log = (tmp_path / "job" / "stdout.log").read_text()
    assert "DATA [None, None, None, None]" in log
    assert "XAR ['data.sock', 'launch.py']" in log
    assert "NET 101" in log or "NET 111" in log
    assert planted_key not in log


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_curve_that_cannot_be_kept_ends_the_run(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    slow = edit({"train.py": ("step += 1", "step += 1; import time; time.sleep(0.5)")})
    plan = TrainingPlan(slow, 1, 4096, 60.0, None)
    begun = time.monotonic()
    with bench.scratch_folder("test") as folder, pytest.raises(StoreError, match="append"):
        train(bench, plan, folder / "train", log_path=tmp_path / "log", curve_path=tmp_path)
    assert time.monotonic() - begun < 7, "sixteen steps of half a second were not waited for"


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_what_a_listener_raises_reaches_the_caller(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    slow = edit({"train.py": ("step += 1", "step += 1; import time; time.sleep(0.2)")})
    plan = TrainingPlan(slow, 1, 4096, 60.0, None)

    def fail(progress: Progress) -> None:
        raise BrokenPipeError(str(progress.step))

    with bench.scratch_folder("test") as folder, pytest.raises(BrokenPipeError):
        train(bench, plan, folder / "train", log_path=tmp_path / "log", on_progress=fail)


def test_the_cap_is_one_and_a_half_of_what_the_baseline_needs_here(bench: Bench) -> None:
    reference = cpu_reference(bench, 7)
    assert 0.05 < reference.baseline_cpu_s < 5
    assert reference.cap_s == pytest.approx(CAP_FACTOR * reference.baseline_cpu_s + CAP_ALLOWANCE_S)
    assert reference.first_losses
    assert cpu_reference(bench, 7) == reference, "measured once in a while"


def test_an_old_reference_is_measured_again_but_its_losses_stay(bench: Bench) -> None:
    first = cpu_reference(bench, 7)
    (path,) = (bench.run_dir / "probe").glob("*.json")
    for measured_at in (first.measured_at - FRESH_S - 1, first.measured_at + 3600):
        path.write_text(dump(replace(first, baseline_cpu_s=99.0, measured_at=measured_at)))
        assert cpu_reference(bench, 7, max_age_s=None).baseline_cpu_s == 99.0
        again = cpu_reference(bench, 7)
        assert again.baseline_cpu_s < 5
        assert again.first_losses == first.first_losses
