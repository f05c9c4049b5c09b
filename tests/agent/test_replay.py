"""A dry replay decides as the recorded episode did, and names the first decision that it would take otherwise."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
from episodes import GOOD_SCRIPT, RAISE_LR, call

from xar_agent.agent.events import StepEvent
from xar_agent.agent.implement import implement
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ModelReply, ToolCall
from xar_agent.agent.replay import dry_replay
from xar_agent.agent.scripted import ScriptedModel
from xar_agent.agent.trajectory import FILE_NAME
from xar_agent.agent.types import Idea
from xar_agent.errors import Interrupted, UserError
from xar_agent.jobs.bench import Bench

LIMITS = EpisodeLimits(max_steps=12)


def record(script: list[object], bench: Bench, idea: Idea, folder: Path, **more: object) -> None:
    """One episode on record."""
    implement(idea, bench, ScriptedModel(script), limits=LIMITS, episode_dir=folder, **more)  # type: ignore[arg-type]


def rewrite(folder: Path, kind: str, number: int, **changes: object) -> None:
    """Change the data of the n-th event of a kind."""
    path = folder / FILE_NAME
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    [line for line in lines if line["type"] == kind][number]["data"].update(changes)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


STRANGE = [
    [ToolCall("a", "bash", "{bad"), call("read_file", "a", path="train.py")],
    ModelReply("no call"),
    [ToolCall("b", "nothing", "{}")],
    *[[call("bash", command="cat README.md")]] * 9,
]


@pytest.mark.parametrize(
    "script",
    [GOOD_SCRIPT, STRANGE, [ModelReply("I give up.")] * 3, [[RAISE_LR]]],
    ids=["good", "strange", "gave_up", "short"],
)
def test_a_recorded_episode_replays_identically(
    script: list[object], toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    record(script, toy_bench, idea, episode_dir)
    report = dry_replay(episode_dir)
    assert report.divergence is None
    assert report.identical
    assert report.steps >= 3


def test_it_needs_nothing_but_the_episodes_folder(
    toy_bench: Bench, idea: Idea, episode_dir: Path, tmp_path: Path
) -> None:
    record(GOOD_SCRIPT, toy_bench, idea, episode_dir)
    copy = tmp_path / "copy"
    shutil.copytree(episode_dir, copy)
    shutil.rmtree(toy_bench.run_dir)
    assert dry_replay(copy / FILE_NAME).identical


def test_an_episode_that_was_interrupted_resumed_and_reopened_replays(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    cancel = threading.Event()

    def interrupt(event: StepEvent) -> None:
        if event.step == 2:
            cancel.set()

    with pytest.raises(Interrupted):
        record(GOOD_SCRIPT, toy_bench, idea, episode_dir, on_step=interrupt, cancel=cancel)
    assert dry_replay(episode_dir).identical
    record(GOOD_SCRIPT[2:], toy_bench, idea, episode_dir)
    record([[call("bash", command="ls")]], toy_bench, idea, episode_dir, feedback="It crashed.")
    report = dry_replay(episode_dir)
    assert report.divergence is None
    assert report.steps >= 5


def test_another_system_prompt_is_the_first_divergence(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    record(GOOD_SCRIPT, toy_bench, idea, episode_dir)
    start = json.loads((episode_dir / FILE_NAME).read_text().splitlines()[0])["data"]
    start["messages"][0]["content"] += "Be bold."
    rewrite(episode_dir, "run_start", 0, messages=start["messages"])
    divergence = dry_replay(episode_dir).divergence
    assert divergence is not None
    assert (divergence.step, divergence.what) == (0, "run_start.messages")
    assert "Be bold." in divergence.recorded
    assert "Be bold." not in divergence.replayed


def test_a_result_that_was_changed_shows_at_the_next_request(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    record(GOOD_SCRIPT, toy_bench, idea, episode_dir)
    rewrite(episode_dir, "tool_result", 1, shown="edited")
    divergence = dry_replay(episode_dir).divergence
    assert divergence is not None
    assert (divergence.step, divergence.what) == (3, "llm_request.request_hash")


def test_another_ending_is_a_divergence(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    record([ModelReply("I give up.")] * 3, toy_bench, idea, episode_dir)
    rewrite(episode_dir, "run_end", 0, outcome="stuck")
    divergence = dry_replay(episode_dir).divergence
    assert divergence is not None
    assert (divergence.what, divergence.recorded, divergence.replayed) == ("run_end.outcome", "stuck", "gave_up")


def test_a_folder_without_an_episode_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        dry_replay(tmp_path)
