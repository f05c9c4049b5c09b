"""A small copy of the toy environment, benches over it, and trees with an edit."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import JobSpec
from xar_agent.sandbox import tree

BACKENDS = [pytest.param("bubblewrap", marks=pytest.mark.bwrap), "process"]
SMALLER = {"budget = 40960": "budget = 4096", "val_tokens = 8192": "val_tokens = 2048"}


@pytest.fixture
def marker() -> str:
    """A word in the command line of every training program of this test, to find those that are alive."""
    return f"run-{uuid.uuid4().hex}"


@pytest.fixture
def toy_copy(tmp_path: Path, marker: str) -> Path:
    """A folder with the toy environment at a tenth of its size, free to be changed."""
    folder = tmp_path / "envs" / "toy"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    for old, new in {**SMALLER, 'train = ["train.py"]': f'train = ["train.py", "{marker}"]'}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "env.toml").write_text(text)
    return folder


@pytest.fixture
def store(runs_dir: Path) -> Iterator[RunStore]:
    """A run that is open for writing."""
    with RunStore.create(runs_dir, "run", {"env": "toy", "preset": "default"}) as opened:
        yield opened


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each sandbox that can be used here."""
    return str(request.param)


@pytest.fixture
def bench(toy_copy: Path, store: RunStore, backend: str) -> Bench:
    """The small toy environment, ready to measure."""
    return open_bench(EnvSpec(toy_copy), "default", backend, store.dir)


Edit = Callable[..., str]


@pytest.fixture
def edit(bench: Bench) -> Edit:
    """``edit({"train.py": ("old", "new")})`` -> tree of the base with that replaced; a string is the whole file."""

    def make(changes: dict[str, tuple[str, str] | str]) -> str:
        with bench.scratch_folder("edit") as folder:
            workspace = bench.checkout(bench.base_tree, folder)
            for name, change in changes.items():
                path = workspace / name
                if isinstance(change, str):
                    path.write_text(change)
                    continue
                text = path.read_text()
                assert change[0] in text
                path.write_text(text.replace(*change))
            return tree.snapshot(bench.git_store, workspace)

    return make


@pytest.fixture
def wish(bench: Bench, store: RunStore) -> Callable[..., JobSpec]:
    """``wish(tree, seed=1)`` -> the spec of its job."""

    def make(tree_hash: str, seed: int = 1, idea_id: str = "idea") -> JobSpec:
        patch = bench.diff(tree_hash)
        return JobSpec(store.name, idea_id, bench.env.name, bench.preset_name, seed, patch, tree_hash)

    return make
