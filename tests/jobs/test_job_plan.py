"""What a dry run shows of a job is what a real run executes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.job_plan import OVERTIME_S, job_plan
from xar_agent.jobs.training import TrainingPlan, train

Edit = Callable[..., str]
LOOK = (
    'out = Path("out")\n',
    'out = Path("out")\n    import sys\n'
    '    print("SEEN", json.dumps([open("/proc/self/cmdline").read().split(chr(0))[:-1], dict(os.environ), '
    'os.getcwd(), sorted(os.listdir("/xar")) if os.path.isdir("/xar") else []]))\n',
)


def test_a_real_run_executes_what_its_plan_says(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    tree = edit({"train.py": LOOK})
    with bench.scratch_folder("test") as folder:
        training = train(bench, TrainingPlan.of(bench, tree, 3), folder / "train", log_path=tmp_path / "log")
    assert training.failure is None, training.failure
    line = next(line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("SEEN"))
    command, environment, cwd, shown = json.loads(line.removeprefix("SEEN "))
    plan = job_plan(bench.env, bench.preset_name, seed=3, python=bench.python)
    if bench.backend == "process":  # nothing can be remapped there: our places are elsewhere, all else is the same
        command = [word.replace(str(bench.launcher), "/xar/launch.py") for word in command]
        environment["XAR_DATA"], cwd = "/xar/data.sock", "/workspace"
        shown = ["data.sock", "launch.py"]
    assert command == list(plan.command)
    assert plan.environment.items() <= environment.items()
    assert set(environment) - set(plan.environment) <= {"PATH", "HOME", "TMPDIR", "LANG", "PWD", "LC_CTYPE"}
    assert cwd == plan.workspace
    assert [f"/xar/{name}" for name in shown] == sorted(plan.binds)


@pytest.mark.parametrize(("preset", "gpus"), [("1gpu", 1), ("full", 8)])
def test_the_plan_of_a_large_preset_needs_no_device(preset: str, gpus: int) -> None:
    env = load_env("nanogpt")
    plan = job_plan(env, preset)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "8"]
    started = torchrun if gpus > 1 else []
    assert list(plan.command) == ["python3", "-P", *started, "/xar/launch.py", "train.py"]
    assert (plan.gpus, plan.processes) == (gpus, gpus)
    assert (plan.clock, plan.budget, plan.overtime_s) == ("seconds", env.preset(preset).budget, OVERTIME_S)
    assert plan.environment["XAR_BUDGET"] == str(plan.budget)
    assert plan.environment.get("PYTHONSAFEPATH") == ("1" if gpus > 1 else None)
    assert not plan.counts_cpu
    assert (plan.limits.processes or 0) >= 256 + 512 * gpus


def test_the_limits_of_a_preset_without_a_device_are_those_that_they_were() -> None:
    plan = job_plan(load_env("nanogpt"), "cpu")
    assert (plan.limits.memory_mib, plan.limits.processes, plan.limits.cpus) == (2048, 256, 1.0)
    assert (plan.limits.file_mib, plan.limits.open_files, plan.limits.disk_mib) == (1024, 1024, 4096)
    assert (plan.counts_cpu, plan.overtime_s, plan.wall_s) == (True, None, 900.0)


def test_a_folder_of_data_is_named_where_the_socket_would_be(toy_copy: Path) -> None:
    text = (toy_copy / "env.toml").read_text().replace('clock = "tokens"', 'clock = "seconds"\ndata = "folder"')
    (toy_copy / "env.toml").write_text(text)
    plan = job_plan(EnvSpec(toy_copy), "default")
    assert plan.environment["XAR_DATA"] == "/xar/data"
    assert set(plan.binds) == {"/xar/launch.py", "/xar/data"}
    assert plan.counts_cpu, "a cap is named"
