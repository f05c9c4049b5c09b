"""A preset with several GPUs: torchrun starts a copy of the program for each, in a sandbox with the loopback only.

The devices are made-up nodes and the copies talk through gloo, so all of it runs where there is no GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from made_gpus import make_this_machine
from seconds_toy import by_seconds

from xar_agent.jobs.bench import Bench
from xar_agent.jobs.job_plan import job_plan
from xar_agent.jobs.training import Training, TrainingPlan, train
from xar_agent.jobs.types import FailureClass, JobSpec, JobState
from xar_agent.jobs.worker import run_job
from xar_agent.sandbox.gpus import Gpus

pytestmark = [pytest.mark.bwrap, pytest.mark.torch]
Edit = Callable[..., str]
Wish = Callable[..., JobSpec]
N_GPUS = 2
START = 'if __name__ == "__main__":\n    main()\n'
GROUP = """
import sys
import torch
import torch.distributed as dist


def together():
    dist.init_process_group("gloo")
    count = torch.ones(1)
    dist.all_reduce(count)
    rank = dist.get_rank()
    # hook
    if rank == 0:
        print("WORLD", int(count), os.environ["OMP_NUM_THREADS"], os.environ["HOME"], sys.path[0], flush=True)
        print("ARGV", sys.argv[0].rsplit("/", 1)[-1], open(f"/proc/{os.getppid()}/cmdline").read().split(chr(0))[:-1])
        shm = os.statvfs("/dev/shm")
        print("SHM", shm.f_blocks * shm.f_frsize >> 20, flush=True)
        main()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    together()
"""


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
    """The small toy environment on seconds, said to need both."""
    changes = {"gpus = 0": f"gpus = {N_GPUS}", 'memory = "512m"': 'memory = "4g"', "wall_s = 60.0": "wall_s = 400.0"}
    by_seconds(toy_copy, changes)
    program = toy_copy / "repo" / "train.py"
    assert START in program.read_text()
    program.write_text(program.read_text().replace(START, GROUP))
    return toy_copy


@pytest.fixture
def run(bench: Bench, edit: Edit, tmp_path: Path) -> Callable[..., Training]:
    """``run("code")`` -> the training of the base with that code in every copy, before it begins."""

    def start(code: str, **limits: float) -> Training:
        tree = edit({"train.py": ("    # hook\n", "".join(f"    {line}\n" for line in code.splitlines()))})
        with bench.leased() as leased, leased.scratch_folder("test") as folder:
            plan = replace(TrainingPlan.of(leased, tree, 1), **limits)
            return train(leased, plan, folder / "train", log_path=tmp_path / "log")

    return start


def test_a_job_runs_a_copy_on_each_device_as_its_plan_says(bench: Bench, wish: Wish, tmp_path: Path) -> None:
    with bench.leased() as leased:
        outcome = run_job(leased, wish(leased.base_tree), tmp_path / "job")
    assert outcome.state is JobState.SUCCEEDED, outcome.failure
    assert outcome.evaluation is not None
    assert outcome.evaluation.valid, outcome.evaluation.reasons
    log = (tmp_path / "job" / "stdout.log").read_text()
    assert f"WORLD {N_GPUS} 1 /tmp /" in log
    assert f"SHM {512 * N_GPUS}\n" in log
    plan = job_plan(bench.env, "default", python=bench.python)
    assert f"ARGV train.py {list(plan.command)}" in log
    assert plan.command[1:9] == (
        *("-P", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", "2"),
    )


def test_a_copy_that_crashes_is_the_failure_and_not_what_happens_to_the_others(run: Callable[..., Training]) -> None:
    failure = run("if rank == 1:\n    torch.ones(2, 3) @ torch.ones(2, 3)\ndist.barrier()").failure
    assert failure is not None
    assert (failure.kind, failure.file) == (FailureClass.SHAPE, "train.py"), failure
    assert failure.reason == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"
    assert failure.line is not None
    assert "torch.ones(2, 3) @ torch.ones(2, 3)" in failure.log
    assert "ChildFailedError" not in failure.log


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("if rank == 1:\n    os.kill(os.getpid(), 9)\ndist.barrier()", "ended by signal 9"),
        ("if rank == 1:\n    raise SystemExit('no such setting')\ndist.barrier()", "exit code 1: no such setting"),
    ],
)
def test_a_copy_that_ends_without_a_traceback_says_how(run: Callable[..., Training], code: str, reason: str) -> None:
    failure = run(code).failure
    assert failure is not None
    assert failure.reason == reason


def test_the_whole_tree_ends_when_the_budget_is_long_over(run: Callable[..., Training]) -> None:
    mark = f"77{time.time_ns() % 10**6}"
    idle = (
        f"import subprocess, time\nsubprocess.Popen(['sleep', '{mark}'], start_new_session=True)\n"
        "from stream import TokenStream\nif rank == 0: TokenStream().read(1, 8)\ntime.sleep(300)"
    )
    failure = run(idle, budget=1, overtime_s=1.0).failure
    assert failure is not None
    assert (failure.kind, "after its budget of 1 s" in failure.reason) == (FailureClass.TIMEOUT, True)
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]
