"""The guided policy, with answers that are given instead of generated; the smoke test's results are real text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from xar_agent.agent.guided import SLOTS, GuidedModel
from xar_agent.agent.guided_code import read_part
from xar_agent.agent.guided_prompts import recipes_for
from xar_agent.agent.local_server import Completion, LocalServer
from xar_agent.agent.messages import Message, ModelReply, ModelRequest
from xar_agent.agent.outline import outline
from xar_agent.envs.spec import load_env

FIT = '''import math

ROWS = 32  # a step
PEAK = 3e-3


def rate(fraction: float) -> float:
    """A cosine."""
    return PEAK * math.cos(fraction)
'''
NET = """from torch import nn
import torch.nn.functional as F

WIDTH = 8


def squash(x):
    return F.gelu(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return squash(self.layer(x))
"""
FILES = {"fit.py": FIT, "net.py": NET}
PASSED = json.dumps({"passed": True, "loss_first": 7.0, "loss_last": 6.9})
FAILED = json.dumps(
    {"passed": False, "class": "CODE", "reason": "AttributeError: no rrelu2", "file": "net.py", "line": 8}
)


class Given:
    """Answers in order, and what was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def complete(
        self,
        messages: Sequence[dict[str, str]],
        *,
        slot: int,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        stop: Sequence[str] = (),
    ) -> Completion:
        self.asked.append({"messages": [dict(m) for m in messages], "slot": slot, "schema": schema})
        return Completion(self.answers.pop(0), "stop", 100, 10, 90, 0.5)

    def close(self) -> None:
        self.asked.append({"closed": True})


class Episode:
    """A conversation with the policy in which the test plays the tools."""

    def __init__(self, idea: str, *answers: str) -> None:
        self.server = Given(*answers)
        self.model = GuidedModel("local/tiny", self.server)
        self.model.begin(idea, FILES)
        self.messages: list[Message] = [{"role": "user", "content": idea}]

    def turn_result(self, result: str) -> None:
        call_id = self.messages[-1]["tool_calls"][0]["id"]
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": result})

    def turn(self, result: str | None = None) -> ModelReply:
        if result is not None:
            self.turn_result(result)
        reply = self.model.complete(ModelRequest(list(self.messages)))
        self.messages.append(reply.to_message())
        return reply


def arguments(reply: ModelReply) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(reply.tool_calls[0].arguments)
    return value


def pick(label: str) -> str:
    return json.dumps({"part": label})


def value(text: str) -> str:
    return json.dumps({"value": text})


def fence(code: str) -> str:
    return f"```python\n{code}"


def test_a_value_change_is_an_edit_a_smoke_test_and_a_submission() -> None:
    episode = Episode("Halve the batch size.", pick("fit.py:ROWS"), value("ROWS // 2"))
    edit = episode.turn()
    assert edit.tool_calls[0].name == "edit_file"
    assert arguments(edit) == {"path": "fit.py", "old_str": "ROWS = 32  # a step", "new_str": "ROWS = 16  # a step"}
    assert edit.finish_reason == "tool_calls"
    assert (edit.input_tokens, edit.output_tokens, edit.cached_tokens, edit.attempts) == (200, 20, 180, 2)
    assert (edit.cost_usd, edit.cost_source) == (0.0, "local")
    assert [call["purpose"] for call in edit.raw["guided"]] == ["pick", "value"]
    assert episode.turn("edited fit.py").tool_calls[0].name == "smoke_test"
    submit = episode.turn(PASSED)
    assert submit.tool_calls[0].name == "submit_run"
    assert arguments(submit) == {"message": "Halve the batch size."}
    assert (submit.input_tokens, submit.attempts) == (0, 0)
    assert len({call["id"] for m in episode.messages for call in m.get("tool_calls", [])}) == 3


def test_the_choice_is_limited_to_the_parts_and_the_parts_are_in_the_text() -> None:
    episode = Episode("Halve the batch size.", pick("fit.py:ROWS"), value("16"))
    episode.turn()
    asked = episode.server.asked[0]
    labels = ["fit.py:ROWS", "fit.py:PEAK", "fit.py:rate", "net.py:WIDTH", "net.py:squash", "net.py:Net"]
    assert asked["schema"]["properties"]["part"]["enum"] == labels
    assert all(label in asked["messages"][-1]["content"] for label in labels)
    assert asked["messages"][-1]["content"].endswith("Idea: Halve the batch size.")


def test_a_constant_that_holds_the_old_value_is_changed_rather_than_the_code_that_uses_it() -> None:
    episode = Episode("Use a peak of 6e-3 instead of 3e-3.", pick("fit.py:rate"), value("6e-3"))
    assert arguments(episode.turn())["new_str"] == "PEAK = 6e-3"
    elsewhere = Episode("Use 8 rows instead of 32.", pick("fit.py:PEAK"), value("8"))
    assert arguments(elsewhere.turn())["new_str"] == "ROWS = 8  # a step"
    unrelated = Episode(
        "Use a line instead of 7 bends.", pick("fit.py:rate"), fence(FIT[FIT.index("def") :].rstrip() + " + 1")
    )
    assert arguments(unrelated.turn())["new_str"].endswith("math.cos(fraction) + 1")


def test_a_wrong_value_goes_back_with_the_reason_and_the_right_one_is_taken() -> None:
    episode = Episode("Use 8 rows instead of 32.", pick("fit.py:ROWS"), value("ROWS // 2"), value("8"))
    assert arguments(episode.turn())["new_str"] == "ROWS = 8  # a step"
    assert "the idea says 8" in episode.server.asked[-1]["messages"][-1]["content"]
    first, second = (asked["schema"]["properties"]["value"] for asked in episode.server.asked[1:])
    assert "enum" not in first
    assert second == {"enum": ["8"]}


def test_a_value_that_stays_wrong_is_given_up_without_an_edit() -> None:
    episode = Episode("Use 8 rows instead of 32.", pick("fit.py:ROWS"), value("16"), value("16"))
    reply = episode.turn()
    assert reply.tool_calls == ()
    assert reply.finish_reason == "stop"
    assert reply.text.startswith("I give up: the idea says 8")


def test_a_failed_smoke_test_goes_back_with_the_failing_line_and_the_correction_replaces_the_first_edit() -> None:
    wrong, right = "def squash(x):\n    return F.rrelu2(x)", "def squash(x):\n    return F.relu(x).square()"
    episode = Episode("Use squared ReLU.", pick("net.py:squash"), fence(wrong), fence(right))
    assert arguments(episode.turn())["new_str"] == wrong
    episode.turn("edited net.py")
    again = episode.turn(FAILED)
    assert arguments(again) == {"path": "net.py", "old_str": wrong, "new_str": right}
    sent_back = episode.server.asked[-1]["messages"][-1]["content"]
    assert "`return F.rrelu2(x)` fails: AttributeError: no rrelu2" in sent_back
    assert "squared ReLU: `F.relu(x).square()`" in episode.server.asked[1]["messages"][-1]["content"]
    episode.turn("edited net.py")
    assert episode.turn(PASSED).tool_calls[0].name == "submit_run"


def test_after_two_failed_corrections_it_gives_up() -> None:
    bodies = [fence(f"def squash(x):\n    return F.wrong{i}(x)") for i in range(3)]
    episode = Episode("Use squared ReLU.", pick("net.py:squash"), *bodies)
    episode.turn()
    for _ in range(2):
        episode.turn("edited net.py")
        assert episode.turn(FAILED).tool_calls[0].name == "edit_file"
    episode.turn("edited net.py")
    last = episode.turn(FAILED)
    assert last.tool_calls == ()
    assert "no rrelu2" in last.text


def test_a_refused_edit_is_undone_in_its_own_view_before_the_next_try() -> None:
    first, second = "def squash(x):\n    return F.elu(x)", "def squash(x):\n    return F.silu(x)"
    episode = Episode("Use SiLU.", pick("net.py:squash"), fence(first), fence(second))
    episode.turn()
    again = episode.turn(json.dumps({"error": "SYNTAX", "message": "it would break"}))
    assert arguments(again)["old_str"] == "def squash(x):\n    return F.gelu(x)"


def test_an_unchanged_part_was_the_wrong_one_and_another_is_picked() -> None:
    same = "def squash(x):\n    return F.gelu(x)  # as before"
    new = "def rate(fraction: float) -> float:\n    return PEAK * (1 - fraction)"
    answers = (pick("net.py:squash"), fence(same), fence(same), pick("fit.py:rate"), fence(new))
    episode = Episode("Let the rate fall in a straight line.", *answers)
    assert arguments(episode.turn())["path"] == "fit.py"
    assert "net.py:squash" not in episode.server.asked[3]["schema"]["properties"]["part"]["enum"]


def test_an_interrupted_episode_goes_on_from_its_messages() -> None:
    first = Episode("Use squared ReLU.", pick("net.py:squash"), fence("def squash(x):\n    return F.rrelu2(x)"))
    first.turn()
    first.turn("edited net.py")
    later = Episode("Use squared ReLU.", fence("def squash(x):\n    return F.relu(x).square()"))
    later.messages = first.messages
    later.model.begin("Use squared ReLU.", {**FILES, "net.py": NET.replace("F.gelu(x)", "F.rrelu2(x)")})
    again = later.turn(FAILED)
    assert arguments(again)["old_str"] == "def squash(x):\n    return F.rrelu2(x)"
    assert arguments(again)["new_str"] == "def squash(x):\n    return F.relu(x).square()"


def test_a_full_run_that_crashed_is_corrected_with_its_log() -> None:
    wrong, right = "def squash(x):\n    return F.elu(x)", "def squash(x):\n    return F.silu(x)"
    episode = Episode("Use SiLU.", pick("net.py:squash"), fence(wrong), fence(right))
    episode.turn()
    episode.turn("edited net.py")
    episode.turn(PASSED)
    episode.turn_result('{"submitted": true}')
    episode.messages.append({"role": "user", "content": "The full run has failed. Reason: the loss is NaN"})
    again = episode.turn()
    assert arguments(again) == {"path": "net.py", "old_str": wrong, "new_str": right}
    assert "the loss is NaN" in episode.server.asked[-1]["messages"][-1]["content"]


def test_a_part_that_occurs_twice_is_edited_in_the_right_place() -> None:
    text = "if True:\n    A = 1\nB = 2\nA = 1\n"
    model = GuidedModel("local/tiny", Given(pick("a.py:A"), value("3")))
    model.begin("Set A to 3.", {"a.py": text})
    call = arguments(model.complete(ModelRequest([])))
    assert text.count(call["old_str"]) == 1
    assert text.replace(call["old_str"], call["new_str"]) == "if True:\n    A = 1\nB = 2\nA = 3\n"


def test_closing_the_model_stops_its_server() -> None:
    episode = Episode("Use SiLU.")
    episode.model.close()
    assert episode.server.asked == [{"closed": True}]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("def squash(x):\n    return F.gelu(x)", "the code is the same"),
        ('def squash(x):\n    """Words."""\n    return F.gelu(x)', "the code is the same"),
        ("def squash(x):\n    return F.relu(", "not valid Python"),
        ("def other(x):\n    return F.relu(x)", "must define squash exactly once"),
        ("def squash(x, y):\n    return F.relu(x)", "keep the arguments: x"),
        ("def squash(x):\n    return relu(x)", "relu is not defined"),
        ("import os\ndef squash(x):\n    return F.relu(x)", "nothing may stand outside"),
        ("squash = 3", "a function a function"),
    ],
)
def test_an_unsound_rewrite_is_found_before_it_reaches_the_file(answer: str, problem: str) -> None:
    part = next(part for part in outline("net.py", NET) if part.name == "squash")
    assert problem in read_part(part, answer, NET, "Use ReLU.").problem


def test_layers_made_in_forward_lost_methods_and_missing_numbers_are_found() -> None:
    part = next(part for part in outline("net.py", NET) if part.name == "Net")
    in_forward = part.source.replace("squash(self.layer(x))", "nn.LayerNorm(WIDTH)(self.layer(x))")
    assert "make nn.LayerNorm in __init__" in read_part(part, in_forward, NET, "Add a norm.").problem
    lost = part.source[: part.source.index("    def forward")].replace("WIDTH, WIDTH", "WIDTH, 2")
    assert "the method forward is missing" in read_part(part, lost, NET, "Change it.").problem
    scaled = part.source.replace("squash(self.layer(x))", "3.0 * squash(self.layer(x))")
    assert "the idea says 0.3" in read_part(part, scaled, NET, "Scale the output by 0.3.").problem
    assert read_part(part, scaled, NET, "Scale the output by 3.").problem == ""


def test_a_constant_that_got_lost_is_found_unless_a_new_call_takes_its_place() -> None:
    part = next(part for part in outline("fit.py", FIT) if part.name == "rate")
    lost = part.source.replace("PEAK * math.cos(fraction)", "3e-3 * (1 - fraction)")
    assert "PEAK must still be used" in read_part(part, lost, FIT, "Use a straight line.").problem
    replaced = part.source.replace("PEAK * math.cos(fraction)", "math.exp(-fraction)")
    assert read_part(part, replaced, FIT, "Use an exponential.").problem == ""


def test_repeated_imports_in_an_answer_do_no_harm() -> None:
    part = next(part for part in outline("net.py", NET) if part.name == "squash")
    code = read_part(part, "from torch import nn\ndef squash(x):\n    return F.relu(x)", NET, "Use ReLU.")
    assert (code.problem, code.source) == ("", "def squash(x):\n    return F.relu(x)")


def test_only_recipes_that_the_idea_calls_for_are_shown() -> None:
    assert recipes_for("Use squared ReLU in the MLP.") == ["squared ReLU: `F.relu(x).square()`"]
    assert recipes_for("Halve the batch size.") == []
    assert recipes_for("Improve the scheme") == []


@pytest.mark.model
@pytest.mark.soak
def test_the_real_model_changes_a_stated_number_of_the_toy_environment(model_file: Path) -> None:
    env = load_env("toy")
    files = {path.name: path.read_text() for path in env.repo.glob("*.py")}
    with LocalServer(model_file, slots=SLOTS) as server:
        model = GuidedModel("local/qwen2.5-coder-1.5b", server)
        model.begin("Use a learning rate of 3.0 instead of 1.0.", files)
        call = arguments(model.complete(ModelRequest([])))
    assert call["old_str"].startswith("LEARNING_RATE = 1.0")
    assert call["new_str"].startswith("LEARNING_RATE = 3.0")
