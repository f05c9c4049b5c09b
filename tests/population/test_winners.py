"""What of a run is worth a look: the better ones, the best first, each program once."""

from __future__ import annotations

from typing import Literal

import pytest

from xar_agent.errors import UnknownName, UserError, XarError
from xar_agent.jobs.records import IdeaRecord
from xar_agent.jobs.types import Evaluation, Fidelity, Job, JobSpec, JobState, Score, Verdict
from xar_agent.population.archive import Candidate
from xar_agent.population.winners import choose
from xar_agent.sandbox.protocol import Patch


def candidate(
    name: str,
    delta: float | None,
    verdict: Verdict = "within_noise",
    *,
    tree: str = "",
    fidelity: Fidelity = "effect",
    direction: Literal["min", "max"] = "min",
) -> Candidate:
    """One whose score is so far from the baseline's 4.0."""
    idea = IdeaRecord(name, f"the idea {name}", "toy")
    if delta is None:
        return Candidate(idea, None, (), None, "unknown", None, None)
    spec = JobSpec("r", name, "toy", "default", 1, Patch("b", "", (), 0, 0, ""), tree or name)
    hashes = ("c", "e", "v", "d", "m")
    scored = Evaluation("m", 4.0 + delta, direction, True, (), (), 1, 1.0, 1.0, 1.0, 1, tree, *hashes)
    job = Job(name, name, spec, JobState.SUCCEEDED, 1, None, scored)
    found = Score(4.0 + delta, 0.0, 9.0, 1, 4.0, delta, verdict)
    return Candidate(idea, None, (job,), found, fidelity, None, 0.0)


RUN = [
    candidate("noise", -0.5),
    candidate("good", -0.3, "better"),
    candidate("twin", -0.3, "better", tree="good"),
    candidate("great", -0.4, "better"),
    candidate("cheat", -3.0, "invalid"),
    candidate("comment", -0.6, fidelity="no_effect"),
    candidate("crash", None),
]


def ids(top: int, run: list[Candidate] = RUN) -> list[str]:
    return [one.idea.id for one in choose(run, top=top).candidates]


def test_those_that_the_search_called_better_come_first_and_each_program_once() -> None:
    assert ids(1) == ["great"]
    assert ids(3) == ["great", "good", "noise"]


def test_higher_is_better_where_the_metric_says_so() -> None:
    run = [candidate(name, delta, "better", direction="max") for name, delta in (("low", 0.1), ("high", 0.2))]
    assert ids(1, run) == ["high"]


def test_a_candidate_that_was_not_called_better_comes_with_a_warning() -> None:
    assert choose(RUN).warnings == ()
    assert choose(RUN[:1]).warnings == ("the search did not call better than the baseline: noise",)
    assert choose(RUN, top=9).warnings[0] == "only 3 of the 9 candidates that were asked for can be confirmed"


def test_one_can_be_named_by_the_beginning_of_its_id() -> None:
    assert choose(RUN, idea_id="tw").candidates[0].idea.id == "twin"
    with pytest.raises(UnknownName, match="2 ideas begin with 'g'"):
        choose(RUN, idea_id="g")
    with pytest.raises(UnknownName, match="no idea 'x'"):
        choose(RUN, idea_id="x")


@pytest.mark.parametrize(("name", "reason"), [("cheat", "not valid"), ("comment", "no effect"), ("crash", "no score")])
def test_what_cannot_win_is_refused_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        choose(RUN, idea_id=name)


def test_a_run_with_nothing_to_confirm_says_so() -> None:
    with pytest.raises(XarError, match="no candidate"):
        choose(RUN[4:])
