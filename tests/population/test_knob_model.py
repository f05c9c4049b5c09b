"""A knob idea runs through the ordinary episode without a model, for nothing, and goes on after an interruption."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from xar_agent.agent.events import StepEvent
from xar_agent.agent.implement import implement
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ModelRequest, Situated
from xar_agent.agent.replay import dry_replay
from xar_agent.agent.run import run_idea
from xar_agent.agent.scripted import ScriptedModel
from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import read_knobs
from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.errors import Interrupted
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.runs import RunStore
from xar_agent.population.knobs import KnobModel, Setting, idea_text, scripted_replies

LIMITS = EpisodeLimits(max_steps=10)
SMALLER = {"budget = 40960": "budget = 4096", "val_tokens = 8192": "val_tokens = 2048"}
TOY = load_env("toy")
KNOBS = read_knobs(TOY)
BASE = {path: (TOY.repo / path).read_text() for path in ("model.py", "train.py")}
SETTING = Setting.of({"BATCH_SIZE": 4, "LEARNING_RATE": 0.75, "ORDER": 1})
IDEA = Idea(idea_text(SETTING, KNOBS), "toy", origin="seed")
CHANGED = {"+BATCH_SIZE = 4  # rows a step", "+LEARNING_RATE = 0.75", "+ORDER = 1  # characters of context"}


@pytest.fixture
def store(runs_dir: Path) -> Iterator[RunStore]:
    """A run that is open for writing."""
    with RunStore.create(runs_dir, "run", {"env": "toy", "preset": "default"}) as opened:
        yield opened


@pytest.fixture(params=[pytest.param("bubblewrap", marks=pytest.mark.bwrap), "process"])
def bench(tmp_path: Path, store: RunStore, request: pytest.FixtureRequest) -> Bench:
    """The toy environment at a tenth of its size."""
    folder = tmp_path / "envs" / "toy"
    shutil.copytree(TOY.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "env.toml").write_text(text)
    return open_bench(EnvSpec(folder), "default", request.param, store.dir)


def added(diff: str) -> set[str]:
    """Lines that a diff adds."""
    return {line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")}


def test_a_knob_idea_comes_to_a_score_without_a_model_and_for_nothing(bench: Bench, store: RunStore) -> None:
    model = KnobModel(KNOBS)
    assert isinstance(model, Situated)
    result = run_idea(IDEA, bench=bench, store=store, model=model, limits=LIMITS, seeds=(1,))
    made = result.implementation
    assert (made.outcome, made.steps, made.model, made.usage.cost_usd) == ("submitted", 3, "knobs", 0.0)
    assert made.smoke is not None
    assert made.smoke.passed
    assert added(made.patch.diff) == CHANGED
    assert [e.valid for e in result.evaluations] == [True]
    assert dry_replay(made.trajectory).identical
    child_setting = Setting.of({"BATCH_SIZE": 8, "LEARNING_RATE": 1.5, "ORDER": 1})
    child = Idea(idea_text(child_setting, KNOBS), "toy", (IDEA.id,), "exploit", 1)
    second = implement(
        child,
        bench,
        KnobModel(KNOBS),
        limits=LIMITS,
        episode_dir=store.dir / "impl" / child.id,
        parent=made.patch,
    )
    assert second.outcome == "submitted"
    assert added(second.patch.diff) == {"+LEARNING_RATE = 1.5", "+ORDER = 1  # characters of context"}


@pytest.mark.parametrize("bench", ["process"], indirect=True)
@pytest.mark.parametrize("step", [1, 2])
def test_a_half_finished_episode_goes_on_where_it_was(bench: Bench, store: RunStore, step: int) -> None:
    cancel = threading.Event()
    folder = store.dir / "impl" / IDEA.id

    def interrupt(event: StepEvent) -> None:
        if event.step == step:
            cancel.set()

    with pytest.raises(Interrupted):
        implement(IDEA, bench, KnobModel(KNOBS), limits=LIMITS, episode_dir=folder, on_step=interrupt, cancel=cancel)
    done = implement(IDEA, bench, KnobModel(KNOBS), limits=LIMITS, episode_dir=folder)
    assert (done.outcome, done.usage.requests, done.usage.cost_usd) == ("submitted", done.steps, 0.0)
    assert added(done.patch.diff) == CHANGED


@pytest.mark.parametrize("bench", ["process"], indirect=True)
def test_the_replies_are_a_script_that_any_episode_can_follow(bench: Bench, store: RunStore) -> None:
    script = scripted_replies(SETTING, KNOBS, BASE)
    done = implement(IDEA, bench, ScriptedModel(script), limits=LIMITS, episode_dir=store.dir / "impl" / IDEA.id)
    assert (done.outcome, added(done.patch.diff)) == ("submitted", CHANGED)


@pytest.mark.parametrize("bench", ["process"], indirect=True)
def test_a_setting_that_fails_the_smoke_test_is_not_submitted(bench: Bench, store: RunStore) -> None:
    train = bench.env.repo / "train.py"
    train.write_text(train.read_text().replace("    step = 0\n", "    step = 0 if BATCH_SIZE > 4 else 1 / 0\n"))
    broken = open_bench(EnvSpec(bench.env.folder), "default", "process", store.dir)
    done = implement(IDEA, broken, KnobModel(KNOBS), limits=LIMITS, episode_dir=store.dir / "impl" / IDEA.id)
    assert done.outcome == "gave_up"
    assert "does not pass the smoke test" in done.exit_reason
    assert "ZeroDivisionError" in done.exit_reason


@pytest.mark.parametrize("bench", ["process"], indirect=True)
def test_a_crash_of_the_full_run_has_nothing_to_mend_and_stays_a_submission(bench: Bench, store: RunStore) -> None:
    train = bench.env.repo / "train.py"
    late = "            step += 1\n            if step > 20:\n                raise RuntimeError('late crash')\n"
    train.write_text(train.read_text().replace("            step += 1\n", late))
    broken = open_bench(EnvSpec(bench.env.folder), "default", "process", store.dir)
    result = run_idea(IDEA, bench=broken, store=store, model=KnobModel(KNOBS), limits=LIMITS, seeds=(1,))
    assert result.implementation.outcome == "submitted"
    assert len(store.jobs()) == 1
    assert result.evaluations == ()


@pytest.mark.parametrize(
    ("text", "files", "said"),
    [
        ("Use a cosine schedule.", BASE, "no setting of the environment's knobs"),
        (IDEA.text, {}, "train.py has no constant BATCH_SIZE"),
    ],
)
def test_what_is_no_setting_or_cannot_be_set_is_given_up_in_words(
    text: str, files: Mapping[str, str], said: str
) -> None:
    model = KnobModel(KNOBS)
    model.begin(text, files)
    reply = model.complete(ModelRequest([{"role": "user", "content": text}]))
    assert (reply.tool_calls, reply.cost_usd) == ((), 0.0)
    assert said in reply.text
