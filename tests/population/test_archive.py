"""An idea's score rests on all seeds of the patch that was submitted last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xar_agent.jobs.records import IdeaRecord
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, Job, JobSpec, JobState
from xar_agent.population.archive import read_candidates
from xar_agent.sandbox.protocol import Patch

CRASH = Failure(FailureClass.CODE, "SystemExit: 1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore.create(tmp_path, "run", {"env": "toy"}) as opened:
        opened.add_idea(IdeaRecord("idea", "text", "toy"))
        yield opened


def add(store: RunStore, seed: int, tree: str = "a", failure: Failure | None = None) -> None:
    """A job of the idea that has ended: valid, or failed."""
    job_id = f"{tree}{seed}"
    spec = JobSpec("run", "idea", "toy", "default", seed, Patch("base", "", (), 0, 0, ""), tree)
    store.add_job(Job(job_id, job_id, spec, JobState.QUEUED, 1, None, None), job_id)
    if failure:
        store.set_state(job_id, JobState.FAILED, failure)
        return
    hashes = ("c", "e", "v", "d", "machine")
    store.record_evaluation(
        job_id, 1, Evaluation("loss", 1.0, "min", True, (), (), seed, 1.0, 1.0, 1.0, 1, tree, *hashes), job_id
    )


def test_a_seed_that_crashed_makes_the_idea_invalid(store: RunStore) -> None:
    for seed, failure in ((0, None), (1, CRASH), (2, None)):
        add(store, seed, failure=failure)
    (candidate,) = read_candidates(store)
    assert candidate.score is not None
    assert (candidate.score.verdict, candidate.score.n) == ("invalid", 2)


def test_the_crash_of_a_patch_that_was_repaired_does_not_count_against_the_repair(store: RunStore) -> None:
    add(store, 0, "crashed")
    add(store, 1, "crashed", CRASH)
    add(store, 0, "repaired")
    add(store, 1, "repaired")
    (candidate,) = read_candidates(store)
    assert candidate.score is not None
    assert (candidate.score.verdict, candidate.score.n) == ("none", 2), "no baseline here, so no verdict"
    assert {job.spec.tree for job in candidate.jobs} == {"repaired"}
    assert candidate.failure == ""
