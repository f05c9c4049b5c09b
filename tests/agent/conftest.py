"""A small toy environment in a sandbox, for whole episodes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from xar_agent.agent.types import Idea
from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.runs import RunStore

SMALLER = {"budget = 40960": "budget = 4096", "val_tokens = 8192": "val_tokens = 2048"}


@pytest.fixture
def store(runs_dir: Path) -> Iterator[RunStore]:
    """A run that is open for writing."""
    with RunStore.create(runs_dir, "run", {"env": "toy", "preset": "default"}) as opened:
        yield opened


@pytest.fixture
def toy_bench(tmp_path: Path, store: RunStore, request: pytest.FixtureRequest) -> Bench:
    """The toy environment at a tenth of its size; without isolation unless the test asks for another sandbox."""
    folder = tmp_path / "envs" / "toy"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "env.toml").write_text(text)
    env = EnvSpec(folder)
    return open_bench(env, env.default_preset, getattr(request, "param", "process"), store.dir)


@pytest.fixture
def idea() -> Idea:
    """An idea that the toy environment can carry out."""
    return Idea("Raise the peak learning rate to 3.", "toy")


@pytest.fixture
def episode_dir(store: RunStore, idea: Idea) -> Path:
    """Where the episode of ``idea`` is recorded."""
    return store.dir / "impl" / idea.id
