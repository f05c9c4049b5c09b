"""The embedded model thinks of ideas that it could carry out itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from xar_agent.agent.choose import choose_model
from xar_agent.agent.sources import ModelSource
from xar_agent.envs.knobs import read_knobs
from xar_agent.envs.spec import load_env
from xar_agent.population.ideation import Asked, Call, propose_with_model
from xar_agent.population.types import Slot


@pytest.mark.model
def test_the_embedded_model_gives_two_ideas_that_name_a_place(model_file: Path, tmp_path: Path) -> None:
    env = load_env("nanogpt")
    files = {name: (env.repo / name).read_text() for name in ("train.py", "model.py")}
    call = Call(0, 0, (Slot("seed"),) * 2, (), (), tmp_path, "1:0")
    events: list[Asked] = []
    with ModelSource(choose_model("local/qwen2.5-coder-1.5b"), log_dir=tmp_path) as models:
        ideas = propose_with_model(
            call,
            env=env,
            preset="cpu",
            baseline=env.shipped_baseline("cpu"),
            files=files,
            model=models.ideator(),
            knobs=read_knobs(env),
            on_event=events.append,
        )
    assert len({idea.id for idea in ideas}) == 2
    assert sum(event.n_read for event in events) >= 2
    assert all("train.py" in idea.text or "model.py" in idea.text for idea in ideas)
