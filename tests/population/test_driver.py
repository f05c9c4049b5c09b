"""A batch's work over the real thing: what it charges, and what it raises."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_gpus import make_this_machine

from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import read_knobs
from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.errors import Interrupted
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.worker import JobEvent
from xar_agent.population.budget import Amount, Budget, Ledger
from xar_agent.population.clock import RunClock
from xar_agent.population.driver import BatchWork

pytestmark = pytest.mark.bwrap
TOY = load_env("toy")
IDEA = Idea("Set the knobs: LEARNING_RATE = 0.5 (train.py).", "toy")
TWIN = Idea("Set the knobs: LEARNING_RATE = 0.5 (train.py), WARMUP_FRACTION = 0.0 (train.py).", "toy")
"""It sets another knob to what it is anyway."""


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


@pytest.fixture
def bench(gpu_toy: EnvSpec, store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """It, ready to measure on a made device."""
    make_this_machine(monkeypatch, tmp_path, 1)
    return open_bench(gpu_toy, "default", "bubblewrap", store.dir)


def work_on(bench: Bench, store: RunStore, engine: LocalEngine, ledger: Ledger, **options: Any) -> BatchWork:
    """Knob ideas at one seed."""
    cancel = options.pop("cancel", threading.Event())
    plain = {"on_event": lambda idea, event: None, "source": None, "ideas_from": "knobs", "repairs": 0, "seeds": (1,)}
    return BatchWork(
        store=store,
        bench=bench,
        engine=engine,
        ledger=ledger,
        clock=RunClock(store.dir, None, cancel),
        limits=EpisodeLimits(max_steps=10),
        knobs=read_knobs(bench.env),
        position=lambda idea: 0,
        cancel=cancel,
        **{**plain, **options},
    )


def test_training_that_ctrl_c_ended_is_charged_what_it_used(store: RunStore, bench: Bench) -> None:
    cancel = threading.Event()

    def stop_when_it_trains(idea: Idea, event: Any) -> None:
        if isinstance(event, JobEvent) and event.kind == "metric":
            cancel.set()

    ledger = Ledger(store.dir, Budget(gpu_hours=1.0))
    with LocalEngine(store, bench) as engine:
        work = work_on(bench, store, engine, ledger, cancel=cancel, on_event=stop_when_it_trains)
        with pytest.raises(Interrupted):
            work.carry_out(IDEA)
    assert 0 < ledger.spent.gpu_hours < 0.01
    assert Ledger(store.dir, Budget()).spent == ledger.spent


def test_a_twin_of_an_idea_that_still_waits_for_its_training_is_known_as_one(store: RunStore, bench: Bench) -> None:
    ledger = Ledger(store.dir, Budget(gpu_hours=0.4))
    with LocalEngine(store, bench) as engine:
        work = work_on(bench, store, engine, ledger)
        with ledger.reserve("another idea", Amount(gpu_hours=0.1)) as others:
            first = threading.Thread(target=work.carry_out, args=(IDEA,))
            first.start()
            while not work._owners:
                time.sleep(0.01)
            work.carry_out(TWIN)
            assert not store.jobs()
            assert work.outcome(TWIN).same_as == IDEA.id
            assert "the same code" in work.outcome(TWIN).reason
            others.settle(Amount())
        first.join()
        assert work.outcome(TWIN).same_as == IDEA.id
        assert work.outcome(IDEA).score is not None
