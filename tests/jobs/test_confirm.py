"""Looks at the hidden split: fresh seeds, each counted once, interrupted ones gone on with, scores kept apart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xar_agent.envs.spec import Baseline, CurvePoint
from xar_agent.errors import Interrupted, StoreError, UserError
from xar_agent.jobs.baseline import HIDDEN_CALIBRATION_SEED, baseline_for, baseline_path
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.confirm import (
    Confirmation,
    confirm_patch,
    finding_of,
    hidden_baseline,
    judged,
    read_confirmations,
    take_look,
)
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.looks import Finding, Look, Wanted, begin_looks, read_looks, seed_of
from xar_agent.jobs.measured import measure_patch, measured_so_far
from xar_agent.jobs.records import IdeaRecord
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Failure, FailureClass, Job, JobSpec, JobState
from xar_agent.jobs.worker import JobEvent
from xar_agent.population.archive import read_candidates
from xar_agent.sandbox.protocol import Patch
from xar_agent.store import write_json

pytestmark = pytest.mark.parametrize("backend", ["process"], indirect=True)
Edit = Callable[..., str]
FASTER = {"train.py": ("LEARNING_RATE = 1.0\n", "LEARNING_RATE = 3.0\n")}
POINTS = [CurvePoint(compute=c, mean=m, sd=0.01, n=n) for c, m, n in ((0.5, 4.6, 5), (1.0, 4.3, 12), (1.5, 4.1, 5))]
BASE = Baseline(
    env_version="e", evaluator_version="v", preset="default", machine="m",
    mean=4.3, sd=0.014, n=12, values={}, cpu_s=60.0, curve=POINTS,
)  # fmt: skip
LOOK = Look(1, 1, "idea", "tree", "sha", (7, 8, 9, 10, 11), 0.0)
GOOD = (4.26, 4.27, 4.255, 4.265, 4.25)


def finding(values: tuple[float | None, ...] = GOOD, **changes: object) -> Finding:
    plain = Finding("min", values, (), 1.0, "effect", BASE)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def known_baseline(bench: Bench) -> Baseline:
    """A hidden baseline of this machine that the small toy environment is far better than."""
    env = bench.env
    made = BASE.model_copy(update={"env_version": env.version, "mean": 4.0, "curve": []})
    write_json(baseline_path(env, "default", "hidden"), made.model_dump())
    return made


@pytest.fixture
def look_at(bench: Bench, store: RunStore, edit: Edit) -> Callable[..., Confirmation]:
    """``look_at(seeds=3, ...)`` confirms a higher learning rate."""
    store.add_idea(IdeaRecord("idea", "faster", "toy"))
    tree = edit(FASTER)
    patch = bench.diff(tree)
    return lambda **options: confirm_patch(store, bench, None, "idea", patch, tree, **{"seeds": 3, **options})


def test_the_figures_follow_from_the_values(bench: Bench) -> None:
    found = judged(LOOK, finding(), 1)
    assert found.mean == pytest.approx(4.26)
    assert found.gain == pytest.approx(0.04)
    # By hand, Welch: s = 0.00790569, s^2/5 = 1.25e-5; 0.014^2/12 = 1.63333e-5; t = 7.4493, df = 13.1;
    # t(0.975, 13) = 2.1604: 0.04 +- 0.0116007.
    # Student: pooled s^2 = (4 * 6.25e-5 + 11 * 1.96e-4) / 15 = 1.604e-4, error = 0.00674141, t = 5.9335;
    # t(0.975, 15) = 2.13145: 0.04 +- 0.0143690, which is the wider one.
    assert (found.gain_lo, found.gain_hi) == pytest.approx((0.04 - 0.0143690, 0.04 + 0.0143690), abs=1e-6)
    assert found.p is not None
    assert 1e-5 < found.p < 2e-5
    assert (found.lo, found.hi) == pytest.approx((4.26 - 0.009816, 4.26 + 0.009816), abs=1e-5)
    assert found.verdict == "confirmed"
    assert judged(LOOK, finding(direction="max"), 1).gain == pytest.approx(-0.04)
    assert judged(LOOK, finding(direction="max"), 1).verdict == "not_confirmed"


def test_every_look_of_the_run_makes_the_claim_harder(bench: Bench) -> None:
    values = (4.28, 4.29, 4.275, 4.285, 4.27)
    once, often = judged(LOOK, finding(values), 1), judged(LOOK, finding(values), 40)
    assert once.p == often.p
    assert once.p is not None
    assert often.p_corrected == pytest.approx(min(1.0, 40 * once.p))
    assert (once.verdict, often.verdict) == ("confirmed", "not_confirmed")


def test_more_compute_is_compared_with_the_baseline_at_that_compute(bench: Bench) -> None:
    found = judged(LOOK, finding(compute_ratio=1.65), 1)
    assert found.baseline_mean == pytest.approx(4.1)
    assert found.verdict == "not_confirmed"
    assert judged(LOOK, finding(compute_ratio=0.5), 1).baseline_mean == pytest.approx(4.3), "less earns nothing"


def test_a_patch_without_effect_is_never_confirmed(bench: Bench) -> None:
    assert judged(LOOK, finding(fidelity="no_effect"), 1).verdict == "not_confirmed"


def test_one_seed_without_a_valid_score_makes_it_invalid(bench: Bench) -> None:
    found = judged(LOOK, finding((4.2, 4.2, 4.2, 4.2, None)), 1)
    assert (found.verdict, found.mean, found.p, found.gain_lo) == ("invalid", None, None, None)
    crash = Failure(FailureClass.CODE, "SystemExit: 1")
    spec = JobSpec("r", "idea", "toy", "default", 1, Patch("b", "", (), 0, 0, ""), "t", "hidden")
    crashed = finding_of([Job("a", "a", spec, JobState.FAILED, 1, crash, None)], "effect", BASE, "min")
    assert (crashed.values, crashed.reasons) == ((None,), ("CODE: SystemExit: 1",))


def test_a_candidate_is_trained_at_seeds_that_nothing_else_has_used(
    bench: Bench, store: RunStore, edit: Edit, known_baseline: Baseline, look_at: Callable[..., Confirmation]
) -> None:
    tree = edit(FASTER)
    likely = seed_of(tree, 0)
    measure_patch(store, bench, "idea", bench.diff(tree), tree, [likely])
    first, second = look_at(), look_at()
    assert first.verdict == "confirmed"
    assert len({likely, *first.seeds, *second.seeds}) == 7
    assert all(seed > HIDDEN_CALIBRATION_SEED + 1000 for seed in first.seeds)
    assert [job.spec.split for job in store.jobs()] == ["val"] + ["hidden"] * 6
    assert (first.looks, second.looks) == (1, 2)
    assert [one.looks for one in read_confirmations(store.dir)] == [2, 2], "a later look counts for the earlier one too"


def test_hidden_scores_never_show_among_the_scores_of_the_search(
    bench: Bench, store: RunStore, edit: Edit, known_baseline: Baseline, look_at: Callable[..., Confirmation]
) -> None:
    tree = edit(FASTER)
    found = measure_patch(store, bench, "idea", bench.diff(tree), tree, [1])
    (before,) = read_candidates(store)
    confirmed = look_at()
    (after,) = read_candidates(store)
    assert after == before
    assert after.score is not None
    assert (after.score.mean, after.score.n) == (found.score.mean, 1)
    assert after.score.mean != confirmed.mean
    so_far = measured_so_far(store, bench, "idea", tree)
    assert so_far is not None
    assert so_far.score.n == 1


def test_an_interrupted_look_counts_once_and_trains_no_seed_twice(
    bench: Bench, store: RunStore, known_baseline: Baseline, look_at: Callable[..., Confirmation]
) -> None:
    cancel = threading.Event()

    def stop_after_the_first(event: object) -> None:
        if isinstance(event, JobEvent) and event.kind == "done":
            cancel.set()

    with pytest.raises(Interrupted):
        look_at(on_event=stop_after_the_first, cancel=cancel)
    (look,) = read_looks(store.dir)
    assert look.finding is None
    assert read_confirmations(store.dir) == ()
    done = {job.id: job.attempt for job in store.jobs() if job.evaluation}
    assert 1 <= len(done) < 3
    with pytest.raises(UserError, match="with 3 seeds was interrupted"):
        look_at(seeds=4)

    found = look_at()
    assert (found.seeds, found.looks, found.number) == (look.seeds, 1, 1)
    jobs = store.jobs()
    assert [job.spec.seed for job in jobs] == list(look.seeds)
    assert {job.id: job.attempt for job in jobs if job.id in done} == done


def test_looks_that_were_begun_together_are_not_begun_again(
    bench: Bench, store: RunStore, edit: Edit, known_baseline: Baseline
) -> None:
    trees = [edit(FASTER), edit({"train.py": ("LEARNING_RATE = 1.0\n", "LEARNING_RATE = 2.0\n")})]
    patches = [bench.diff(tree) for tree in trees]
    wanted = [Wanted(f"i{n}", tree, patch.sha256) for n, (tree, patch) in enumerate(zip(trees, patches, strict=True))]
    first, _ = begin_looks(store, wanted, 3, 5)
    with LocalEngine(store, bench) as engine:
        take_look(store, bench, engine, first, patches[0])
        assert [one.looks for one in read_confirmations(store.dir)] == [2], "the second look counts before its result"
        again = begin_looks(store, wanted, None, 5)
        assert [look.number for look in again] == [1, 2]
        assert again[0].finding is not None
        take_look(store, bench, engine, again[1], patches[1])
    assert len(read_looks(store.dir)) == 2
    assert [look.number for look in begin_looks(store, wanted[:1], 3, 5)] == [3], "both had ended: this is a new look"


def test_a_patch_that_crashes_is_invalid_with_its_reason(
    bench: Bench, store: RunStore, edit: Edit, known_baseline: Baseline
) -> None:
    tree = edit({"train.py": ("LEARNING_RATE = 1.0\n", "LEARNING_RATE = 1.0\nraise ValueError('no luck')\n")})
    found = confirm_patch(store, bench, None, "idea", bench.diff(tree), tree, seeds=3)
    assert (found.verdict, found.values) == ("invalid", (None, None, None))
    assert found.reasons == ("CODE: ValueError: no luck",)


def test_without_a_baseline_of_the_hidden_split_one_is_measured_and_kept(bench: Bench) -> None:
    env = bench.env
    searched = BASE.model_copy(update={"env_version": env.version, "evaluator_version": env.evaluator_version})
    write_json(baseline_path(env, "default"), searched.model_dump())
    assert baseline_for(env, "default", "hidden") is None
    found = hidden_baseline(bench, 3)
    assert found.n == 5
    assert baseline_for(env, "default", "hidden") == found
    assert baseline_for(env, "default") == searched, "the search's baseline is another one"
    assert [point.compute for point in found.curve] == [0.5, 1.0, 1.5]
    began = baseline_path(env, "default", "hidden").stat().st_mtime_ns
    assert hidden_baseline(bench, 9) == found
    assert baseline_path(env, "default", "hidden").stat().st_mtime_ns == began


@pytest.mark.parametrize(("seeds", "words"), [(2, "at least 3 seeds"), (0, "at least 3"), (101, "at most 100")])
def test_a_number_of_seeds_that_carries_no_claim_is_refused(
    store: RunStore, look_at: Callable[..., Confirmation], seeds: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        look_at(seeds=seeds)
    assert read_looks(store.dir) == ()


def test_a_damaged_look_is_named_and_never_counted_away(store: RunStore, bench: Bench) -> None:
    write_json(store.dir / "confirm" / "1.json", {"number": 1})
    with pytest.raises(StoreError, match=r"1\.json"):
        read_confirmations(store.dir)


def test_a_run_without_looks_has_no_confirmations(tmp_path: Path, bench: Bench) -> None:
    assert read_confirmations(tmp_path) == ()


def test_a_refused_command_puts_no_look_on_record(bench: Bench, store: RunStore) -> None:
    begin_looks(store, [Wanted("cut off", "tree a", "sha a")], 5, 5)
    with pytest.raises(UserError, match="cut off with 5 seeds was interrupted"):
        begin_looks(store, [Wanted("new", "tree b", "sha b"), Wanted("cut off", "tree a", "sha a")], 3, 5)
    assert [look.idea_id for look in read_looks(store.dir)] == ["cut off"], "each look makes all p-values larger"
