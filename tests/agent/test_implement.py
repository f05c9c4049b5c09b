"""An episode as a whole: parent patches, the end without submission, interruption and resumption."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from episodes import GOOD_SCRIPT, RAISE_LR, call

from xar_agent.agent.episode import load_implementation
from xar_agent.agent.events import StepEvent
from xar_agent.agent.implement import implement
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ModelReply
from xar_agent.agent.scripted import ScriptedModel
from xar_agent.agent.trajectory import FILE_NAME, read_trajectory
from xar_agent.agent.types import Idea
from xar_agent.errors import Interrupted, PatchRefused, StoreError, UserError
from xar_agent.jobs.bench import Bench

LIMITS = EpisodeLimits(max_steps=20)


def test_each_tool_call_is_told_as_it_happens(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    told: list[StepEvent] = []
    implement(idea, toy_bench, ScriptedModel(GOOD_SCRIPT), limits=LIMITS, episode_dir=episode_dir, on_step=told.append)
    assert [(e.step, e.tool, e.ok) for e in told] == [
        (1, "read_file", True),
        (2, "edit_file", True),
        (3, "smoke_test", True),
        (4, "submit_run", True),
    ]
    assert all("\n" not in e.line for e in told)


def test_a_child_starts_from_its_parent_and_its_patch_is_against_the_base(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    first = implement(idea, toy_bench, ScriptedModel(GOOD_SCRIPT), limits=LIMITS, episode_dir=episode_dir)
    child = [[call("edit_file", path="train.py", old_str="BATCH_SIZE = 8 ", new_str="BATCH_SIZE = 4 ")]]
    second = implement(
        replace(idea, parents=(idea.id,)),
        toy_bench,
        ScriptedModel(child),
        limits=LIMITS,
        episode_dir=episode_dir.with_name("child"),
        parent=first.patch,
    )
    assert second.patch.base == toy_bench.base_tree
    assert {"+LEARNING_RATE = 3.0", "+BATCH_SIZE = 4  # rows a step"} <= set(second.patch.diff.splitlines())


def test_a_parent_that_does_not_fit_is_refused_before_anything_is_recorded(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    first = implement(idea, toy_bench, ScriptedModel([[RAISE_LR]]), limits=LIMITS, episode_dir=episode_dir)
    bad = replace(first.patch, diff=first.patch.diff.replace("-LEARNING_RATE = 1.0", "-LEARNING_RATE = 7.0"))
    other = episode_dir.with_name("child")
    with pytest.raises(PatchRefused):
        implement(idea, toy_bench, ScriptedModel([]), limits=LIMITS, episode_dir=other, parent=bad)
    assert not (other / FILE_NAME).exists()


def test_without_submission_it_ends_with_the_passing_smoke_test(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    model = ScriptedModel(GOOD_SCRIPT)
    done = implement(idea, toy_bench, model, limits=LIMITS, episode_dir=episode_dir, submit=False)
    assert (done.outcome, done.steps) == ("submitted", 3)
    assert "nothing was submitted" in done.exit_reason
    assert done.smoke is not None
    assert done.smoke.passed
    assert "submit_run" not in str(model.requests[0].tools)
    assert "submit_run" not in str(model.requests[0].messages)


def test_an_ended_episode_is_returned_as_it_is(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    first = implement(idea, toy_bench, ScriptedModel(GOOD_SCRIPT), limits=LIMITS, episode_dir=episode_dir)
    before = (episode_dir / FILE_NAME).read_bytes()
    model = ScriptedModel([])
    assert implement(idea, toy_bench, model, limits=LIMITS, episode_dir=episode_dir) == first
    assert model.requests == []
    assert (episode_dir / FILE_NAME).read_bytes() == before


def test_the_patch_of_an_ended_episode_is_the_stores_not_the_masked_file(
    toy_bench: Bench, idea: Idea, episode_dir: Path, planted_key: str
) -> None:
    edit = call(
        "edit_file", path="train.py", old_str="LEARNING_RATE = 1.0\n", new_str="LEARNING_RATE = 1.0\nSIZE = 8\n"
    )
    write = call("bash", command="printf '\\nNAME = \"sk-%s\"\\n' looks-like-a-key >> train.py")
    first = implement(idea, toy_bench, ScriptedModel([[edit], [write]]), limits=LIMITS, episode_dir=episode_dir)
    assert "sk-looks-like-a-key" in first.patch.diff
    assert "sk-looks-like-a-key" not in (episode_dir / "patch.diff").read_text()
    assert load_implementation(idea, toy_bench, episode_dir).patch == first.patch


def test_a_record_that_names_another_patch_than_the_store_is_refused(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    first = implement(idea, toy_bench, ScriptedModel(GOOD_SCRIPT), limits=LIMITS, episode_dir=episode_dir)
    path = episode_dir / FILE_NAME
    path.write_text(path.read_text().replace(first.patch.sha256, "0" * 64))
    with pytest.raises(StoreError, match="not the one"):
        implement(idea, toy_bench, ScriptedModel([]), limits=LIMITS, episode_dir=episode_dir)


def test_an_interrupted_episode_is_recorded_and_goes_on_where_it_was(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    cancel = threading.Event()

    def interrupt(event: StepEvent) -> None:
        if event.step == 2:
            cancel.set()

    model = ScriptedModel(GOOD_SCRIPT)
    with pytest.raises(Interrupted):
        implement(idea, toy_bench, model, limits=LIMITS, episode_dir=episode_dir, on_step=interrupt, cancel=cancel)
    assert "+LEARNING_RATE = 3.0" in (episode_dir / "patch.diff").read_text()
    rest = ScriptedModel(GOOD_SCRIPT)
    done = implement(idea, toy_bench, rest, limits=LIMITS, episode_dir=episode_dir)
    assert (done.outcome, done.steps, done.usage.requests) == ("submitted", 4, 4)
    roles = [m["role"] for m in rest.requests[0].messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool"]


def test_a_step_that_was_cut_off_by_a_crash_is_done_again(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    implement(idea, toy_bench, ScriptedModel(GOOD_SCRIPT), limits=LIMITS, episode_dir=episode_dir)
    path = episode_dir / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    smoke = next(i for i, line in enumerate(lines) if b'"name":"smoke_test"' in line and b'"tool_call"' in line)
    path.write_bytes(b"".join(lines[: smoke + 1]) + lines[smoke + 1][:40])
    rest = ScriptedModel(GOOD_SCRIPT)
    done = implement(idea, toy_bench, rest, limits=LIMITS, episode_dir=episode_dir)
    assert (done.outcome, done.steps) == ("submitted", 4)
    assert done.usage.requests == 5, "the abandoned reply was paid for"
    assert [m["role"] for m in rest.requests[0].messages][-2:] == ["assistant", "tool"]


TALKATIVE = [ModelReply("Let me think."), *[[RAISE_LR]] * 4, [call("smoke_test")], [call("submit_run", message="m")]]
"""A reply without a call, which is answered by a hint; the same failing edit again and again, likewise."""


def test_cut_off_after_any_step_it_sends_no_request_that_the_undisturbed_one_did_not_send(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    model = ScriptedModel(TALKATIVE)
    whole = implement(idea, toy_bench, model, limits=LIMITS, episode_dir=episode_dir)
    assert whole.outcome == "submitted"
    sent = [request.digest() for request in model.requests]
    lines = (episode_dir / FILE_NAME).read_bytes().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines, 1) if b'"type":"workspace"' in line]
    for step, end in enumerate(ends, 1):
        (episode_dir / FILE_NAME).write_bytes(b"".join(lines[:end]))
        rest = ScriptedModel(TALKATIVE)
        done = implement(idea, toy_bench, rest, limits=LIMITS, episode_dir=episode_dir)
        assert [request.digest() for request in rest.requests] == sent[step:]
        assert (done.outcome, done.exit_reason, done.tree) == (whole.outcome, whole.exit_reason, whole.tree)
        assert (done.smoke is None) == (whole.smoke is None)


def test_an_episode_that_gave_up_has_given_up_also_when_its_end_was_cut_off(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    said = [ModelReply(f"no call, {number}") for number in range(3)]
    whole = implement(idea, toy_bench, ScriptedModel(said), limits=LIMITS, episode_dir=episode_dir)
    path = episode_dir / FILE_NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    model = ScriptedModel([*said, *GOOD_SCRIPT])
    done = implement(idea, toy_bench, model, limits=LIMITS, episode_dir=episode_dir)
    assert model.requests == []
    assert (done.outcome, done.exit_reason) == (whole.outcome, whole.exit_reason) == ("gave_up", "no call, 2")


def test_feedback_reopens_an_ended_episode(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    implement(idea, toy_bench, ScriptedModel(GOOD_SCRIPT), limits=LIMITS, episode_dir=episode_dir)
    again = [
        [call("edit_file", path="train.py", old_str="LEARNING_RATE = 3.0", new_str="LEARNING_RATE = 2.0")],
        [call("submit_run", message="too early")],
        [call("smoke_test")],
        [call("submit_run", message="lower")],
    ]
    model = ScriptedModel([*GOOD_SCRIPT, *again])
    done = implement(idea, toy_bench, model, limits=LIMITS, episode_dir=episode_dir, feedback="It crashed.")
    assert model.requests[0].messages[-1] == {"role": "user", "content": "It crashed."}
    assert (done.outcome, done.steps) == ("submitted", 8)
    assert "+LEARNING_RATE = 2.0" in done.patch.diff


def test_an_episode_of_another_environment_version_is_not_resumed(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    implement(idea, toy_bench, ScriptedModel([[RAISE_LR]]), limits=LIMITS, episode_dir=episode_dir)
    other = replace(toy_bench, base_tree="0" * 40)
    with pytest.raises(UserError, match="another version"):
        implement(idea, other, ScriptedModel([]), limits=LIMITS, episode_dir=episode_dir)


class SituatedScript(ScriptedModel):
    """A scripted model that wants to know the repository."""

    def begin(self, idea_text: str, files: Mapping[str, str]) -> None:
        """Keep what it was told."""
        self.told = (idea_text, dict(files))


def test_a_model_that_wants_it_is_told_the_idea_and_the_editable_files(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    model = SituatedScript([])
    implement(idea, toy_bench, model, limits=EpisodeLimits(max_steps=1), episode_dir=episode_dir)
    assert model.told[0] == idea.text
    assert sorted(model.told[1]) == ["model.py", "train.py"]
    assert "LEARNING_RATE = 1.0" in model.told[1]["train.py"]


def test_what_an_episode_starts_from_is_on_record(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    implement(idea, toy_bench, ScriptedModel([]), limits=LIMITS, episode_dir=episode_dir, run_id="r1")
    start = read_trajectory(episode_dir)[0]
    assert start.run_id == "r1"
    assert {
        "idea",
        "base",
        "tree",
        "image",
        "sandbox",
        "versions",
        "prompts",
        "seed",
        "parent_run",
        "fork_seq",
    } <= start.data.keys()
    assert idea.text in start.data["messages"][1]["content"]
    assert toy_bench.env.file.contract.strip() in start.data["messages"][0]["content"]
