"""A workspace over the toy environment's repository, in a real sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xar_agent.envs.spec import load_env
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.sandbox import open_sandbox
from xar_agent.tools.workspace import Workspace


@pytest.fixture
def toy_bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    """The toy environment; without isolation unless the test asks for another sandbox."""
    env = load_env("toy")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return open_bench(env, env.default_preset, getattr(request, "param", "process"), run_dir)


@pytest.fixture
def workspace(toy_bench: Bench, tmp_path: Path) -> Iterator[Workspace]:
    """A fresh checkout."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with toy_bench.scratch_folder("test") as folder:
        checkout = toy_bench.checkout(toy_bench.base_tree, folder)
        with open_sandbox(toy_bench.backend, toy_bench.workspace_spec(checkout)) as sandbox:
            yield Workspace(sandbox, toy_bench, logs)
