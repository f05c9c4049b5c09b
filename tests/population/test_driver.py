"""A batch's work over the real thing: what it charges, and what it raises."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import read_knobs
from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.errors import Interrupted
from xar_agent.jobs.bench import open_bench
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.worker import JobEvent
from xar_agent.population.budget import Budget, Ledger
from xar_agent.population.clock import RunClock
from xar_agent.population.driver import BatchWork

TOY = load_env("toy")
IDEA = Idea("Set the knobs: LEARNING_RATE = 0.5 (train.py).", "toy")


@pytest.fixture
def store(runs_dir: Path) -> Iterator[RunStore]:
    """A run that is open for writing."""
    with RunStore.create(runs_dir, "run", {"env": "toy", "preset": "default"}) as opened:
        yield opened


@pytest.fixture
def gpu_toy(tmp_path: Path) -> EnvSpec:
    """The toy environment, said to need a GPU: at most 0.37 GPU-hours for two attempts at a job."""
    folder = tmp_path / "envs" / "toy"
    shutil.copytree(TOY.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    (folder / "env.toml").write_text(text.replace("gpus = 0", "gpus = 1"))
    return EnvSpec(folder)


def test_training_that_ctrl_c_ended_is_charged_what_it_used(store: RunStore, gpu_toy: EnvSpec) -> None:
    cancel = threading.Event()

    def stop_when_it_trains(idea: Idea, event: Any) -> None:
        if isinstance(event, JobEvent) and event.kind == "metric":
            cancel.set()

    bench = open_bench(gpu_toy, "default", "process", store.dir)
    ledger = Ledger(store.dir, Budget(gpu_hours=1.0))
    with LocalEngine(store, bench) as engine:
        work = BatchWork(
            store=store,
            bench=bench,
            engine=engine,
            ledger=ledger,
            clock=RunClock(store.dir, None, cancel),
            limits=EpisodeLimits(max_steps=10),
            seeds=(1,),
            repairs=0,
            knobs=read_knobs(gpu_toy),
            ideas_from="knobs",
            source=None,
            cancel=cancel,
            on_event=stop_when_it_trains,
        )
        with pytest.raises(Interrupted):
            work.carry_out(IDEA)
    assert 0 < ledger.spent.gpu_hours < 0.01
    assert Ledger(store.dir, Budget()).spent == ledger.spent
