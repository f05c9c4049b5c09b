"""The loop against a real server: what it is sent, in which roles and order, and what ends an episode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from episodes import GOOD_SCRIPT, RAISE_LR, call
from stub_server import Answer, StubServer, fail, say

from xar_agent.agent.implement import implement
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ModelReply, ToolCall
from xar_agent.agent.model import LitellmModel, RetryPolicy
from xar_agent.agent.scripted import ScriptedModel
from xar_agent.agent.trajectory import read_trajectory
from xar_agent.agent.types import Idea, Implementation
from xar_agent.errors import ModelUnavailable
from xar_agent.jobs.bench import Bench

EDIT = {"path": "train.py", "old_str": "LEARNING_RATE = 1.0", "new_str": "LEARNING_RATE = 3.0"}
TWELVE_STEPS = [
    say("looking", ("a", "search", {"pattern": ""}), ("b", "read_file", {"path": "train.py"})),
    say("", ("same", "bash", {"command": "echo one"}), ("same", "bash", {"command": "echo two"})),
    say(
        "",
        ("z", "bash", {"command": "echo z"}),
        ("y", "bash", {"command": "echo y"}),
        ("x", "bash", {"command": "echo x"}),
    ),
    say("", ("c4", "read_file", {"path": "model.py"})),
    say("", ("c5", "read_file", '{"path": "model.py"')),
    say("", ("c6", "edit_file", {"path": "stream.py", "old_str": "a", "new_str": "b"})),
    say("", ("c7", "no_such_tool", {})),
    say("I think I am done."),
    say("", ("c9", "edit_file", EDIT)),
    say("", ("c10", "bash", {"command": "exit 7"})),
    say("", ("c11", "smoke_test", {})),
    say("", ("c12", "submit_run", {"message": "raise the learning rate"})),
]


def run(model: Any, bench: Bench, idea: Idea, folder: Path, **limits: Any) -> Implementation:
    """One episode."""
    return implement(idea, bench, model, limits=EpisodeLimits(**limits), episode_dir=folder)


def over_http(
    script: list[Answer], bench: Bench, idea: Idea, folder: Path, **limits: Any
) -> tuple[Implementation, StubServer]:
    """One episode with a model behind a real server."""
    with StubServer(script) as server:
        model = LitellmModel("openai/stub-model", api_base=server.url, retry=RetryPolicy(attempts=2, first_wait_s=0.01))
        return run(model, bench, idea, folder, **limits), server


def check_conversation(messages: list[dict[str, Any]]) -> None:
    """Every call is answered right after its message, in its order, under its own id, by a message of role tool."""
    assert [m["role"] for m in messages[:2]] == ["system", "user"]
    waiting: list[str] = []
    for message in messages[2:]:
        if waiting:
            assert message["role"] == "tool"
            assert message["tool_call_id"] == waiting.pop(0)
            continue
        assert message["role"] in {"assistant", "user"}
        waiting = [c["id"] for c in message.get("tool_calls", [])]
        assert len(set(waiting)) == len(waiting)
        for entry in message.get("tool_calls", []):
            assert isinstance(json.loads(entry["function"]["arguments"]), dict)
    assert not waiting


@pytest.mark.bwrap
@pytest.mark.parametrize("toy_bench", ["bubblewrap"], indirect=True)
def test_a_twelve_step_episode_speaks_the_native_tool_protocol(
    toy_bench: Bench, idea: Idea, episode_dir: Path, planted_key: str
) -> None:
    implementation, server = over_http(TWELVE_STEPS, toy_bench, idea, episode_dir)
    assert (implementation.outcome, implementation.steps, len(server.requests)) == ("submitted", 12, 12)
    assert implementation.patch.files == ("train.py",)
    assert implementation.smoke is not None
    assert implementation.smoke.passed
    for number, request in enumerate(server.requests):
        assert set(request) == {"messages", "model", "tools"}, "no forced stop words, no tool choice"
        check_conversation(request["messages"])
        if number:
            previous = server.requests[number - 1]["messages"]
            assert request["messages"][: len(previous)] == previous, "the conversation only grows"
    last = server.requests[-1]["messages"]
    answers = {m["tool_call_id"]: m["content"] for m in last if m["role"] == "tool"}
    assert answers["same"].endswith("one\n")
    assert answers["same_2"].endswith("two\n"), "a duplicate id gets one of its own"
    assert [m["tool_call_id"] for m in last if m["role"] == "tool"][4:7] == ["z", "y", "x"], "order as written"
    assert json.loads(answers["c5"])["error"] == "FORMAT"
    assert json.loads(answers["c6"])["error"] == "PROTECTED"
    assert json.loads(answers["c7"])["error"] == "UNKNOWN_TOOL"
    assert any(m["role"] == "user" and "no tool call" in m["content"] for m in last)
    assert implementation.usage.cost_usd is None
    assert implementation.usage.input_tokens == 1200
    for path in episode_dir.rglob("*"):
        assert path.is_dir() or planted_key.encode() not in path.read_bytes()


def test_raw_arguments_are_kept_on_record(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    run(ScriptedModel([[ToolCall("a", "bash", "{oops")]]), toy_bench, idea, episode_dir, max_steps=1)
    called = next(e for e in read_trajectory(episode_dir) if e.type == "tool_call")
    assert called.data["arguments"] == "{oops"


def test_malformed_arguments_are_never_run_and_three_in_a_row_end_the_episode(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    bad = [ToolCall("a", "bash", "touch made_by_accident")]
    model = ScriptedModel([bad, bad, [call("bash", command="ls")], bad, bad, bad, bad])
    implementation = run(model, toy_bench, idea, episode_dir)
    assert (implementation.outcome, len(model.requests)) == ("failed", 6)
    assert "no tool call that could be run" in implementation.exit_reason
    assert "made_by_accident" not in str(model.requests[3].messages[-1])


def test_a_model_that_calls_no_tool_three_times_has_given_up(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    model = ScriptedModel([ModelReply("This cannot be done.")] * 5)
    implementation = run(model, toy_bench, idea, episode_dir)
    assert (implementation.outcome, implementation.exit_reason) == ("gave_up", "This cannot be done.")
    assert len(model.requests) == 3


def test_a_reply_cut_off_by_length_is_told_apart(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    cut = ModelReply("", (ToolCall("a", "write_file", '{"path": "train.py", "content": "x'),), "length")
    model = ScriptedModel([cut] * 5)
    implementation = run(model, toy_bench, idea, episode_dir)
    assert (implementation.outcome, len(model.requests)) == ("failed", 3)
    assert "cut off" in implementation.exit_reason
    assert "cut off by the token limit" in model.requests[1].messages[-1]["content"]


def test_the_step_limit_makes_no_further_request_and_keeps_the_patch(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    model = ScriptedModel([[RAISE_LR], [call("bash", command="ls")], [call("smoke_test")]])
    implementation = run(model, toy_bench, idea, episode_dir, max_steps=2)
    assert (implementation.outcome, implementation.steps, len(model.requests)) == ("over_budget", 2, 2)
    assert implementation.patch.added == 1
    assert (episode_dir / "patch.diff").read_text() == implementation.patch.diff


def test_a_token_budget_ends_the_episode_before_the_next_request(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    script = [say("", (f"c{n}", "bash", {"command": f"echo {n}"})) for n in range(9)]
    implementation, server = over_http(script, toy_bench, idea, episode_dir, budget_tokens=250)
    assert (implementation.outcome, len(server.requests)) == ("over_budget", 3)
    assert "330" in implementation.exit_reason


def test_a_budget_in_dollars_is_kept_and_an_unknown_price_reaches_it(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    script = [say("", (f"c{n}", "bash", {"command": f"echo {n}"}), model="gpt-4o-mini") for n in range(9)]
    priced, server = over_http(script, toy_bench, idea, episode_dir, budget_usd=0.00003)
    assert (priced.outcome, len(server.requests)) == ("over_budget", 2)
    assert priced.usage.cost_usd is not None
    unknown, server = over_http(
        [say("", ("c", "bash", {"command": "ls"}))], toy_bench, idea, episode_dir.with_name("other"), budget_usd=5.0
    )
    assert (unknown.outcome, len(server.requests)) == ("over_budget", 1)
    assert "unknown" in unknown.exit_reason


def test_over_budget_nothing_is_submitted_any_more(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    paid = [ModelReply("", tuple(calls), "tool_calls", input_tokens=100, cost_usd=0.0) for calls in GOOD_SCRIPT]
    implementation = run(ScriptedModel(paid), toy_bench, idea, episode_dir, budget_tokens=400)
    assert implementation.outcome == "over_budget"
    assert implementation.patch.added == 1


def test_going_in_circles_gets_one_hint_and_then_ends(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    model = ScriptedModel([[call("bash", command="cat README.md")]] * 20)
    implementation = run(model, toy_bench, idea, episode_dir)
    assert (implementation.outcome, len(model.requests)) == ("stuck", 8)
    hints = [m for m in model.requests[-1].messages if m["role"] == "user" and "repeating yourself" in m["content"]]
    assert len(hints) == 1


def test_the_same_error_three_times_counts_as_a_circle(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    edits = [[call("edit_file", path="nothing.py", old_str=str(n), new_str="x")] for n in range(20)]
    implementation = run(ScriptedModel(edits), toy_bench, idea, episode_dir)
    assert (implementation.outcome, implementation.steps) == ("stuck", 6)


def test_the_same_command_after_different_edits_is_no_circle(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    steps = []
    for n in range(8):
        steps += [
            [call("bash", command=f"echo '# {n}' >> model.py")],
            [call("bash", command="python -m py_compile model.py")],
        ]
    implementation = run(ScriptedModel(steps), toy_bench, idea, episode_dir, max_steps=16)
    assert implementation.outcome == "over_budget"


def test_a_context_overflow_ends_the_episode_with_its_patch(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    script = [say("", ("a", "edit_file", EDIT)), fail(400, "maximum context length is 10 tokens")]
    implementation, _ = over_http(script, toy_bench, idea, episode_dir)
    assert (implementation.outcome, implementation.patch.added) == ("failed", 1)
    assert "context" in implementation.exit_reason


def test_a_model_that_goes_away_is_an_error_and_what_was_done_is_recorded(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    with pytest.raises(ModelUnavailable):
        over_http([say("", ("a", "edit_file", EDIT)), fail(500, "gone")], toy_bench, idea, episode_dir)
    assert "+LEARNING_RATE = 3.0" in (episode_dir / "patch.diff").read_text()
    end = read_trajectory(episode_dir)[-1]
    assert (end.type, end.data["outcome"], end.data["resumable"]) == ("run_end", "failed", True)


def test_calls_after_an_accepted_submission_are_not_run(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    late = [call("submit_run", message="x"), call("bash", command="touch late")]
    implementation = run(ScriptedModel([[RAISE_LR], [call("smoke_test")], late]), toy_bench, idea, episode_dir)
    assert implementation.outcome == "submitted"
    results = [e.data["error"] for e in read_trajectory(episode_dir) if e.type == "tool_result"]
    assert results == ["", "", "", "SKIPPED"]


def test_the_record_of_a_long_episode_grows_linearly(toy_bench: Bench, idea: Idea, episode_dir: Path) -> None:
    def size(steps: int, folder: Path) -> int:
        model = ScriptedModel([[call("bash", command=f"seq {n} {n + 1500}")] for n in range(steps)])
        run(model, toy_bench, idea, folder, max_steps=steps)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts)

    first = size(1, episode_dir.with_name("one"))
    many = size(31, episode_dir.with_name("many"))
    assert (many - first) / 30 < 12_000, "30 results of about 8 KB"


def test_an_attempt_on_protected_files_is_on_record_and_in_no_patch(
    toy_bench: Bench, idea: Idea, episode_dir: Path
) -> None:
    script = [[RAISE_LR], [call("bash", command="echo '# x' >> stream.py")], [call("smoke_test")]]
    implementation = run(ScriptedModel(script), toy_bench, idea, episode_dir, max_steps=3)
    (event,) = [e for e in read_trajectory(episode_dir) if e.type == "integrity"]
    assert "stream.py" in event.data["reason"]
    assert implementation.patch.files == ("train.py",)
