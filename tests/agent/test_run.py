"""From an idea to its score, with repairs after a crash of the full run."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from episodes import GOOD_SCRIPT, call

from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.replay import dry_replay
from xar_agent.agent.run import recorded_result, run_idea
from xar_agent.agent.scripted import ScriptedModel
from xar_agent.agent.trajectory import read_trajectory
from xar_agent.agent.types import Idea
from xar_agent.errors import BudgetReached, Interrupted
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import JobState, SmokeReport
from xar_agent.jobs.worker import JobEvent
from xar_agent.sandbox.protocol import Patch

LIMITS = EpisodeLimits(max_steps=20)


def crashing_edit(old: str, new: str) -> list[Any]:
    """Edit train.py, test, submit."""
    edit = call("edit_file", path="train.py", old_str=old, new_str=new)
    return [[edit], [call("smoke_test")], [call("submit_run", message="x")]]


AT = "            step += 1\n"
LATE = f"{AT}            if step > 12:\n                raise RuntimeError('late crash')\n"


@pytest.mark.bwrap
@pytest.mark.parametrize("toy_bench", ["bubblewrap"], indirect=True)
def test_an_idea_comes_to_a_valid_score_over_two_seeds(toy_bench: Bench, store: RunStore, idea: Idea) -> None:
    told: list[object] = []
    result = run_idea(
        idea,
        bench=toy_bench,
        store=store,
        model=ScriptedModel(GOOD_SCRIPT),
        limits=LIMITS,
        seeds=(1, 2),
        on_event=told.append,
    )
    assert [e.valid for e in result.evaluations] == [True, True]
    assert [job.state for job in result.jobs] == [JobState.SUCCEEDED] * 2
    assert result.score is not None
    assert result.score.n == 2
    assert {Patch, SmokeReport, JobEvent} <= {type(event) for event in told}
    (row,) = store.implementations(idea.id)
    assert (row.outcome, row.steps) == ("submitted", 4)
    assert (store.dir / row.trajectory_path).is_file()
    assert (store.dir / row.patch_path).read_text() == result.implementation.patch.diff
    again = run_idea(idea, bench=toy_bench, store=store, model=ScriptedModel([]), limits=LIMITS, seeds=(1, 2))
    assert again.evaluations == result.evaluations
    assert len(store.implementations(idea.id)) == 1
    told_jobs = [e.data for e in read_trajectory(result.implementation.trajectory) if e.type == "job"]
    assert [(job["seed"], job["state"], job["value"]) for job in told_jobs] == [
        (e.seed, "succeeded", e.value) for e in result.evaluations
    ]
    assert dry_replay(result.implementation.trajectory).identical


def test_a_crash_of_the_full_run_goes_back_to_the_agent_with_its_log(
    toy_bench: Bench, store: RunStore, idea: Idea
) -> None:
    model = ScriptedModel([*crashing_edit(AT, LATE), *crashing_edit("step > 12", "step > 9000")])
    result = run_idea(idea, bench=toy_bench, store=store, model=model, limits=LIMITS, seeds=(1,))
    told = model.requests[3].messages[-1]
    assert told["role"] == "user"
    assert "late crash" in told["content"]
    assert "train.py:" in told["content"]
    assert result.repairs == 1
    assert [e.valid for e in result.evaluations] == [True]
    assert [row.steps for row in store.implementations(idea.id)] == [3, 6]
    assert dry_replay(store.dir / "impl" / idea.id).identical


def test_repairs_are_bounded(toy_bench: Bench, store: RunStore, idea: Idea) -> None:
    model = ScriptedModel(crashing_edit(AT, LATE))
    result = run_idea(idea, bench=toy_bench, store=store, model=model, limits=LIMITS, seeds=(1,), repairs=0)
    assert len(model.requests) == 3
    assert (result.verdict, result.evaluations) == ("none", ())
    assert result.jobs[0].failure is not None


def test_nothing_is_trained_without_a_submission(toy_bench: Bench, store: RunStore, idea: Idea) -> None:
    result = run_idea(
        idea, bench=toy_bench, store=store, model=ScriptedModel(GOOD_SCRIPT), limits=LIMITS, seeds=(1,), submit=False
    )
    assert result.implementation.outcome == "submitted"
    assert (result.jobs, result.verdict, store.jobs()) == ((), "none", ())


def test_an_interrupted_idea_is_on_record_and_the_same_call_finishes_it(
    toy_bench: Bench, store: RunStore, idea: Idea
) -> None:
    cancel = threading.Event()

    def interrupt(event: object) -> None:
        if getattr(event, "tool", "") == "edit_file":
            cancel.set()

    with pytest.raises(Interrupted):
        run_idea(
            idea,
            bench=toy_bench,
            store=store,
            model=ScriptedModel(GOOD_SCRIPT),
            limits=LIMITS,
            seeds=(1,),
            on_event=interrupt,
            cancel=cancel,
        )
    (row,) = store.implementations(idea.id)
    assert row.exit_reason == "interrupted"
    result = run_idea(idea, bench=toy_bench, store=store, model=ScriptedModel(GOOD_SCRIPT), limits=LIMITS, seeds=(1,))
    assert [e.valid for e in result.evaluations] == [True]


def test_repairs_are_counted_over_resumptions(toy_bench: Bench, store: RunStore, idea: Idea) -> None:
    model = ScriptedModel([*crashing_edit(AT, LATE), *crashing_edit("late crash", "later crash")])
    first = run_idea(idea, bench=toy_bench, store=store, model=model, limits=LIMITS, seeds=(1,))
    assert (first.repairs, first.evaluations) == (1, ())
    more = ScriptedModel(crashing_edit("later crash", "last crash"))
    again = run_idea(idea, bench=toy_bench, store=store, model=more, limits=LIMITS, seeds=(1,))
    assert more.requests == []
    assert again.repairs == 1


def test_training_that_takes_longer_than_allowed_ends_and_is_on_record(
    toy_bench: Bench, store: RunStore, idea: Idea
) -> None:
    slow = crashing_edit(AT, f"{AT}            if step > 12:\n                __import__('time').sleep(60)\n")
    limits = EpisodeLimits(max_steps=20, wall_s=12)
    with pytest.raises(BudgetReached):
        run_idea(idea, bench=toy_bench, store=store, model=ScriptedModel(slow), limits=limits, seeds=(1,))
    found = recorded_result(idea, toy_bench, store)
    assert found is not None
    assert found.implementation.outcome == "submitted"
    assert [job.state for job in found.jobs] == [JobState.CANCELLED]
