"""Ideas from a model: as many as asked for, new, readable, and never paid for twice."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from proposing import ENV, EXPLORE, SEED, TITLES, answer, entry, propose, tried

from xar_agent.agent.messages import ContextOverflow, ModelReply, ModelRequest
from xar_agent.agent.scripted import Case, ScriptedModel
from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import read_knobs
from xar_agent.errors import BudgetReached, ModelUnavailable, StoreError
from xar_agent.jobs.types import FailureClass
from xar_agent.population.ideation import Asked
from xar_agent.population.knobs import parse_setting
from xar_agent.population.types import Slot

OLD = [title[::-1] for title in TITLES]
"""Titles of ideas that are like no other."""


class Once(ScriptedModel):
    """Gives its replies one after the other over all conversations; an exception among them is raised."""

    def __init__(self, *replies: ModelReply | Exception) -> None:
        super().__init__([])
        self._left = list(replies)

    def complete(self, request: ModelRequest) -> ModelReply:
        """The next one."""
        self.requests.append(request)
        reply = self._left.pop(0) if self._left else BudgetReached("no reply is left")
        if isinstance(reply, Exception):
            raise reply
        return reply


def last_words(model: ScriptedModel, request: int = -1) -> str:
    return str(model.requests[request].messages[-1]["content"])


def titles_of(ideas: Sequence[Idea]) -> list[str]:
    return [idea.text.split(".")[0] for idea in ideas]


def test_ideas_come_in_the_order_of_their_places_with_origin_parents_and_epoch(tmp_path: Path) -> None:
    parent = tried(TITLES[0], 0.2)
    child = Slot("exploit", (parent.idea.id,))
    model = Once(answer(TITLES[1], TITLES[2]), answer(TITLES[3]))
    ideas = propose(tmp_path, model, (EXPLORE, child, EXPLORE), [parent], epoch=3)
    assert titles_of(ideas) == [TITLES[1], TITLES[3], TITLES[2]]
    assert [(i.origin, i.parents, i.epoch, i.env) for i in ideas] == [
        ("explore", (), 3, "toy"),
        ("exploit", (parent.idea.id,), 3, "toy"),
        ("explore", (), 3, "toy"),
    ]
    assert ideas[0].text == f"{TITLES[1]}. why Label. Code changes: where percent."


def test_a_call_asks_for_ten_at_most_and_tells_the_next_what_the_epoch_has(tmp_path: Path) -> None:
    model = Once(answer(*TITLES[:10]), answer(*TITLES[10:]))
    assert len(propose(tmp_path, model, (SEED,) * 12)) == 12
    assert "Propose 10 ideas" in last_words(model, 0)
    assert "Propose 2 ideas" in last_words(model, 1)
    assert TITLES[0] not in last_words(model, 0)
    assert all(title in last_words(model, 1) for title in TITLES[:10])


def test_the_schema_of_the_answer_goes_along(tmp_path: Path) -> None:
    model = Once(answer(TITLES[0]))
    propose(tmp_path, model, (SEED,))
    wanted = model.requests[0].response_format
    assert wanted is not None
    assert wanted["json_schema"]["schema"]["required"] == ["ideas"]


def test_an_answer_that_cannot_be_read_goes_back_twice_with_what_was_wrong(tmp_path: Path) -> None:
    model = ScriptedModel([ModelReply("I think so."), ModelReply("", finish_reason="length"), answer(TITLES[0])])
    assert titles_of(propose(tmp_path, model, (SEED,))) == [TITLES[0]]
    assert "no JSON object" in last_words(model, 1)
    assert "cut off" in last_words(model, 2)
    hopeless = ScriptedModel([ModelReply("no")] * 9)
    with pytest.raises(ModelUnavailable, match="gave 0 of 1 ideas"):
        propose(tmp_path / "other", hopeless, (SEED,))
    assert len(hopeless.requests) == 3


def test_too_few_ideas_are_asked_for_again(tmp_path: Path) -> None:
    model = ScriptedModel([answer(TITLES[0]), answer(TITLES[1]), answer(TITLES[2])])
    assert titles_of(propose(tmp_path, model, (SEED,) * 3)) == list(TITLES[:3])
    assert "Send 2 more ideas" in last_words(model, 1)
    assert "Send 1 more idea," in last_words(model, 2)


def test_more_ideas_than_asked_for_are_left_out(tmp_path: Path) -> None:
    model = ScriptedModel([answer(*TITLES)])
    assert titles_of(propose(tmp_path, model, (SEED,) * 2)) == list(TITLES[:2])


@pytest.mark.parametrize("place", ["tried", "pending", "this call"])
def test_a_near_duplicate_is_sent_back_once_with_what_it_is_like(tmp_path: Path, place: str) -> None:
    known = answer(TITLES[0])
    text = f"{TITLES[0]}. why Squared. Code changes: where network."
    outcomes = [tried(text, -0.1)] if place == "tried" else []
    pending = [Idea(text, "toy", origin="user", parents=("x",))] if place == "pending" else []
    first = answer(TITLES[0], "Squared ReLU inside this network") if place == "this call" else known
    model = ScriptedModel([first, answer(TITLES[1])])
    ideas = propose(tmp_path, model, (SEED,) * (2 if place == "this call" else 1), outcomes, pending)
    assert titles_of(ideas)[-1] == TITLES[1]
    assert "too close" in last_words(model)
    assert f"is close to: {TITLES[0]}" in last_words(model)


def test_a_near_duplicate_that_comes_again_is_taken_unless_it_is_identical(tmp_path: Path) -> None:
    text = f"{TITLES[0]}. why Squared. Code changes: where network."
    reworded = "Squared ReLU inside this network"
    model = ScriptedModel([answer(reworded), answer(reworded)])
    assert titles_of(propose(tmp_path, model, (SEED,), [tried(text, 0.1)])) == [reworded]
    assert len(model.requests) == 2
    same = ScriptedModel([answer(TITLES[0])] * 9)
    with pytest.raises(ModelUnavailable, match="gave 0 of 1"):
        propose(tmp_path / "other", same, (SEED,), [tried(text, 0.1)])
    assert len(same.requests) == 2


def test_a_near_duplicate_is_better_than_nothing(tmp_path: Path) -> None:
    text = f"{TITLES[0]}. why Squared. Code changes: where network."
    reworded = "Squared ReLU inside this network"
    model = ScriptedModel([answer(reworded), ModelReply("no"), ModelReply("no"), ModelReply("no")])
    assert titles_of(propose(tmp_path, model, (SEED,), [tried(text, 0.1)])) == [reworded]


def test_a_child_may_resemble_its_parent_but_not_repeat_it(tmp_path: Path) -> None:
    parent = tried(f"{TITLES[0]}. why Squared. Code changes: where network.", 0.1)
    slot = Slot("exploit", (parent.idea.id,))
    model = ScriptedModel([answer("Squared ReLU inside this network")])
    assert len(propose(tmp_path, model, (slot,), [parent], epoch=1)) == 1
    assert len(model.requests) == 1
    again = ScriptedModel([answer(TITLES[0]), answer(TITLES[1])])
    assert titles_of(propose(tmp_path / "other", again, (slot,), [parent], epoch=1)) == [TITLES[1]]


def test_what_the_model_leaves_open_comes_from_the_knob_menu(tmp_path: Path) -> None:
    knobs = read_knobs(ENV)
    model = ScriptedModel([answer(TITLES[0]), *[answer(TITLES[0])] * 5])
    ideas = propose(tmp_path, model, (SEED,) * 4, knobs=knobs)
    assert titles_of(ideas)[0] == TITLES[0]
    assert all(parse_setting(idea.text, knobs) for idea in ideas[1:])
    assert len({idea.id for idea in ideas}) == 4
    assert ideas == propose(tmp_path, ScriptedModel([]), (SEED,) * 4, knobs=knobs), "the same on resume"


def test_a_failed_epoch_goes_on_and_the_next_prompt_holds_the_reasons(tmp_path: Path) -> None:
    failed = [
        tried(f"{title}, first try", failure=kind, reason=f"reason {number}")
        for number, (title, kind) in enumerate(zip(TITLES[:4], FailureClass, strict=False))
    ]
    model = ScriptedModel([answer(*TITLES[4:6])])
    assert len(propose(tmp_path, model, (EXPLORE,) * 2, failed, epoch=1)) == 2
    for number, outcome in enumerate(failed):
        assert f"failed, {outcome.failure}: reason {number}" in last_words(model)
        assert outcome.idea.text in last_words(model)


@pytest.mark.parametrize("slot", [SEED, EXPLORE, Slot("exploit", (tried(TITLES[0], 0.1).idea.id,))])
def test_every_kind_of_prompt_shows_failures_with_their_reasons(tmp_path: Path, slot: Slot) -> None:
    outcomes = [tried(TITLES[0], 0.1), tried("Huge model", failure=FailureClass.OOM, reason="needs 9 GiB")]
    model = ScriptedModel([answer(TITLES[5])])
    propose(tmp_path, model, (slot,), outcomes, epoch=1)
    assert "[failed, OOM: needs 9 GiB] Huge model" in last_words(model)


def test_a_proposal_that_was_killed_between_replies_pays_nothing_twice(tmp_path: Path) -> None:
    replies = [answer(*TITLES[:10]), ModelReply("no"), answer(TITLES[10]), answer(TITLES[11])]
    whole = propose(tmp_path / "whole", Once(*replies), (SEED,) * 12)
    asked = []
    for number in range(len(replies)):
        model = Once(replies[number])  # then it dies
        if number < len(replies) - 1:
            with pytest.raises(BudgetReached):
                propose(tmp_path / "cut", model, (SEED,) * 12)
        else:
            assert propose(tmp_path / "cut", model, (SEED,) * 12) == whole
        asked.append(model.requests[0].digest())
    assert len(set(asked)) == len(replies)
    events: list[Asked] = []
    silent = Once()
    assert propose(tmp_path / "cut", silent, (SEED,) * 12, on_event=events.append) == whole
    assert silent.requests == []
    assert [event.recorded for event in events] == [True] * 4
    records = [tmp_path / name / "proposal-0000.jsonl" for name in ("cut", "whole")]
    assert records[0].read_bytes() == records[1].read_bytes()


def test_a_torn_last_line_is_asked_for_again_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    propose(tmp_path, Once(answer(TITLES[0]), answer(TITLES[1])), (SEED,) * 2)
    path = tmp_path / "proposal-0000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50])
    model = Once(answer(TITLES[2]))
    assert titles_of(propose(tmp_path, model, (SEED,) * 2)) == [TITLES[0], TITLES[2]]
    assert len(model.requests) == 1
    path.write_bytes(b"{oops\n" + lines[0])
    with pytest.raises(StoreError, match=r"proposal-0000.jsonl:1"):
        propose(tmp_path, model, (SEED,) * 2)


def test_a_key_in_a_reply_is_neither_on_record_nor_in_an_idea(tmp_path: Path, planted_key: str) -> None:
    (idea,) = propose(tmp_path, Once(answer(f"Send {planted_key} along")), (SEED,))
    assert planted_key not in (tmp_path / "proposal-0000.jsonl").read_text()
    assert planted_key not in idea.text
    assert propose(tmp_path, Once(), (SEED,)) == (idea,)


def test_a_request_that_is_too_long_is_sent_again_with_less(tmp_path: Path) -> None:
    many = [tried(f"{title} " + f"word{n} and " * 60, -0.1) for n in range(30) for title in OLD]
    model = Once(ContextOverflow("too long"), answer(TITLES[0]), answer(TITLES[1]))
    slots = (EXPLORE, Slot("seed"))
    assert len(propose(tmp_path, model, slots, many)) == 2
    sizes = [len(json.dumps(request.messages)) for request in model.requests]
    assert sizes[1] < 9_000 < 20_000 < sizes[0] < 60_000
    assert sizes[2] < 9_000, "what did not fit once is not tried again"
    silent = Once()
    assert len(propose(tmp_path, silent, slots, many)) == 2
    assert silent.requests == []


def test_the_embedded_model_is_asked_for_five_and_in_few_words(tmp_path: Path) -> None:
    many = [tried(f"{title} " + f"word{n} and " * 60, -0.1) for n in range(30) for title in OLD]
    model = Once(answer(*TITLES[:5]), answer(TITLES[5]))
    model.name = "local/qwen2.5-coder-1.5b"
    assert len(propose(tmp_path, model, (EXPLORE,) * 6, many)) == 6
    assert all(len(json.dumps(request.messages)) < 9_000 for request in model.requests)
    assert "Propose 5 new ideas" in last_words(model, 0)
    assert model.requests[0].max_tokens is not None
    assert "train.py:LEARNING_RATE" in model.requests[0].messages[0]["content"]


def test_a_conversation_with_a_large_model_keeps_its_answers(tmp_path: Path) -> None:
    model = ScriptedModel([answer(TITLES[0]), answer(TITLES[1])])
    propose(tmp_path, model, (SEED,) * 2)
    assert [m["role"] for m in model.requests[1].messages] == ["system", "user", "assistant", "user"]
    assert model.requests[1].messages[2]["content"] == answer(TITLES[0]).text


def test_several_proposals_may_share_a_script_with_cases(tmp_path: Path) -> None:
    explore = Case(re.compile("Look where nobody"), (answer(TITLES[3]),))
    model = ScriptedModel([answer(TITLES[0])], cases=[explore])
    assert titles_of(propose(tmp_path, model, (SEED, EXPLORE))) == [TITLES[0], TITLES[3]]


def test_the_sample_of_the_prompt_is_seeded(tmp_path: Path) -> None:
    many = [tried(f"{title} " + f"word{n} and " * 60, -0.1) for n in range(30) for title in OLD]
    first, second = (Once(answer(TITLES[0])) for _ in range(2))
    propose(tmp_path / "a", first, (EXPLORE,), many)
    propose(tmp_path / "b", second, (EXPLORE,), many)
    assert first.requests[0] == second.requests[0]


def test_a_model_that_refuses_for_another_reason_ends_the_proposal(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="key"):
        propose(tmp_path, Once(ModelUnavailable("it refuses the key")), (SEED,))


def test_an_idea_may_be_written_in_many_ways(tmp_path: Path) -> None:
    text = "Sure! Here they are:\n```json\n" + json.dumps([entry(TITLES[0])], indent=1) + "\n```\nHope this helps [1]."
    (idea,) = propose(tmp_path, Once(replace(answer(), text=text)), (SEED,))
    assert titles_of([idea]) == [TITLES[0]]
