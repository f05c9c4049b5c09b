"""What a report says about a run: from records alone, with its n, and without the hidden split's scores."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from made_runs import HOSTILE, SETTINGS, Made, add_job, baseline, idea_id, make_run, session

from xar_agent.agent.types import Idea
from xar_agent.analysis.report import RunReport, read_report
from xar_agent.analysis.report_counts import (
    epochs_of,
    failures_of,
    is_beyond,
    luck_of,
    rate_of,
    rates_of,
    wilson_interval,
)
from xar_agent.analysis.report_json import finite, report_json
from xar_agent.analysis.report_tables import run_tables
from xar_agent.jobs.looks import Finding, Look, write_look
from xar_agent.jobs.records import IdeaRecord, dump
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import luck
from xar_agent.jobs.types import Failure, FailureClass, SmokeReport
from xar_agent.population.decisions import DecisionLog
from xar_agent.population.types import Outcome

HOUSE_KEYS = {"run", "env", "preset", "baseline", "candidates", "best", "spend", "failures"}
CANDIDATE_KEYS = {
    "idea_id", "text", "epoch", "origin", "parents", "outcome", "failure", "score", "evaluations", "verdict",
    "patch_path", "cost_usd",
}  # fmt: skip


def report_of(folder: Path) -> RunReport:
    """The report of a run on disk."""
    with RunStore.open(folder, read_only=True) as store:
        return read_report(store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two epochs in which everything happens that can."""
    return make_run(tmp_path, session())


def test_valid_candidates_come_best_first_and_invalid_ones_after_them(folder: Path) -> None:
    report = report_of(folder)
    assert [entry.mean for entry in report.valid] == [2.37, 2.41, 2.495, 2.507, 2.62]
    assert report.best is not None
    assert report.best.candidate.idea.text == "Half the batch as well."
    assert all(entry.valid for entry in report.entries[:5])
    assert not any(entry.valid for entry in report.entries[5:]), "a score of 1.2 that was refused ranks nowhere"


def test_scores_of_the_hidden_split_stay_out_of_the_search_scores(folder: Path) -> None:
    before = report_of(folder)
    best = session()[0]
    with RunStore.open(folder) as store:
        add_job(store, idea_id(best), "tree0", 9, 1.0, best, split="hidden")
        add_job(store, idea_id(session()[4]), "tree4", 9, 1.0, best, split="hidden")
    after = report_of(folder)
    assert [(e.id, e.mean) for e in after.entries] == [(e.id, e.mean) for e in before.entries]
    assert [e.id for e in after.in_order] == [e.id for e in before.in_order]


def test_the_gain_is_in_standard_deviations_on_the_good_side(folder: Path) -> None:
    gains = [entry.gain_sd for entry in report_of(folder).valid]
    assert gains == pytest.approx([6.5, 4.5, 0.25, -0.35, -6.0])


def test_failures_are_counted_by_class_with_the_latest_reason(tmp_path: Path) -> None:
    crashes = [Made(f"Crash {i}.", failure=Failure(FailureClass.OOM, f"out of memory {i}")) for i in range(3)]
    report = report_of(make_run(tmp_path, [*crashes, *session()]))
    rows = {row.kind: row for row in failures_of(report)}
    # Three crashed; a fourth idea came to the code of the first of them.
    assert {kind: row.count for kind, row in rows.items()} == {
        "OOM": 4, "NAN": 1, "SYNTAX": 1, "INVALID": 1, "gave_up": 1,
    }  # fmt: skip
    assert next(iter(rows)) == "OOM"
    latest = rows["OOM"].latest.reason
    assert latest is not None
    assert latest.text == "out of memory 0", "of the code that both share"


def test_open_and_repeated_ideas_count_neither_for_nor_against_completion(folder: Path) -> None:
    report = report_of(folder)
    rate = rate_of(report.entries)
    assert (rate.valid, rate.ideas, rate.open, rate.repeats) == (5, 9, 1, 1)
    groups = {key: (one.valid, one.ideas) for key, one in rates_of(report).items()}
    assert groups == {(0, "seed"): (3, 7), (1, "exploit"): (1, 1), (1, "explore"): (1, 1)}


@pytest.mark.parametrize(
    ("successes", "n", "expected"), [(5, 9, (0.2667, 0.8112)), (0, 10, (0.0, 0.2775)), (0, 0, (0.0, 1.0))]
)
def test_the_interval_of_a_share_is_wilsons(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, n) == pytest.approx(expected, abs=1e-4)


def test_the_best_so_far_never_gets_worse_from_epoch_to_epoch(tmp_path: Path) -> None:
    ideas = [Made("a", [2.4]), Made("b", [2.45], epoch=1), Made("c", [2.3], epoch=2)]
    rows = epochs_of(report_of(make_run(tmp_path, ideas)))
    assert [row.best.mean for row in rows if row.best] == [2.4, 2.45, 2.3]
    assert [row.best_so_far.mean for row in rows if row.best_so_far] == [2.4, 2.4, 2.3]


def test_luck_is_that_of_as_many_null_runs_with_as_many_seeds(tmp_path: Path) -> None:
    ideas = [Made(f"idea {i}", [2.5 + 0.01 * i] * 4) for i in range(6)]
    report = report_of(make_run(tmp_path, ideas))
    found = luck_of(report)
    assert found is not None
    assert (found.n, report.seeds) == (6, 4)
    assert (found.mean, found.bound) == luck(6, baseline(sd=0.01), "min"), "the mean of 4 seeds has half the sd"
    assert not is_beyond(report, found)


def test_where_more_is_better_the_highest_score_is_the_best(tmp_path: Path) -> None:
    ideas = [Made(f"idea {value}", [value], direction="max") for value in (2.4, 2.7, 2.5)]
    report = report_of(make_run(tmp_path, ideas))
    assert [entry.mean for entry in report.valid] == [2.7, 2.5, 2.4]
    assert [entry.gain_sd for entry in report.valid] == pytest.approx([10, 0, -5])
    found = luck_of(report)
    assert found is not None
    assert found.bound > found.mean > 2.5
    assert is_beyond(report, found)


def test_results_are_in_the_order_in_which_the_manager_took_them(folder: Path) -> None:
    by_time = [entry.id for entry in report_of(folder).in_order]
    assert by_time == [idea_id(made) for made in session() if not made.open]
    log = DecisionLog(folder)
    for made in reversed([made for made in session() if not made.open]):
        log.add_result(Outcome(Idea(made.text, "toy", made.parents)))
    assert [entry.id for entry in report_of(folder).in_order] == by_time[::-1]


def test_an_unknown_price_is_never_taken_for_nothing(folder: Path) -> None:
    spend = report_json(report_of(folder))["spend"]
    assert spend["cost_usd"] is None
    assert (spend["known_usd"], spend["unknown_prices"]) == (pytest.approx(0.09), 1)
    assert (spend["input_tokens"], spend["output_tokens"]) == (10_000, 2_000)
    assert spend["cpu_hours"] == pytest.approx(0.07)
    assert spend["per_valid_idea"]["cpu_hours"] == pytest.approx(0.07 / 5)


def test_a_run_under_way_can_be_read_while_its_driver_writes(tmp_path: Path) -> None:
    with RunStore.create(tmp_path, "live", SETTINGS) as store:
        store.add_idea(IdeaRecord("first", "text", "toy"))
        report = report_of(store.dir)
    assert report.active
    assert [entry.open for entry in report.entries] == [True]
    assert report.in_order == ()
    assert json.dumps(report_json(report), allow_nan=False)
    assert run_tables(report)


def test_a_diff_of_ones_own_that_fails_its_smoke_test_has_its_class(tmp_path: Path) -> None:
    with RunStore.create(tmp_path, "mine", {"verb": "evaluate", "env": "toy"}) as store:
        store.add_idea(IdeaRecord("mine", "the patch my.patch", "toy"))
        failure = Failure(FailureClass.SHAPE, "shapes do not fit")
        path = store.dir / "impl" / "mine" / "smoke.json"
        path.parent.mkdir(parents=True)
        path.write_text(dump(SmokeReport("sha", "tree", False, failure, None, None, 1.0, 1.0)))
    (row,) = report_json(report_of(store.dir))["candidates"]
    assert row["failure"] == {"class": "SHAPE", "reason": "shapes do not fit"}


def test_the_json_has_the_fixed_keys_and_no_nan(folder: Path) -> None:
    found = report_json(report_of(folder))
    assert set(found) >= HOUSE_KEYS
    assert all(set(row) >= CANDIDATE_KEYS for row in found["candidates"])
    score = found["best"]["score"]
    assert (score["mean"], score["n"]) == (2.37, 1)
    assert (score["lo"], score["hi"]) == (pytest.approx(2.3271, abs=1e-4), pytest.approx(2.4129, abs=1e-4))
    assert found["failures"]["NAN"] == {
        "count": 1, "idea_id": idea_id(session()[2]), "reason": "the loss became NaN at step 12",
    }  # fmt: skip
    assert json.dumps(found, allow_nan=False)
    assert finite({"a": math.nan, "b": [math.inf, 1.0]}) == {"a": None, "b": [None, 1.0]}


def test_an_episode_that_ended_without_a_failure_of_code_has_a_reason_but_no_class(folder: Path) -> None:
    rows = {row["text"]: row for row in report_json(report_of(folder))["candidates"]}
    assert rows["Rewrite it in C."]["failure"] == {"class": None, "reason": "the agent had nothing more to try"}
    assert rows["The same rate again."]["failure"] is None
    assert rows["The same rate again."]["same_as"] == idea_id(session()[0])


def confirm(folder: Path, made: Made, tree: str, values: tuple[float, ...]) -> None:
    """Put a look at the hidden split on record."""
    finding = Finding("min", values, (), 1.0, "effect", baseline())
    seeds = tuple(range(7000, 7000 + len(values)))
    with RunStore.open(folder) as store:
        write_look(store, Look(1, 1, idea_id(made), tree, "sha", seeds, 0.0, finding))


def test_a_confirmed_candidate_is_marked_as_such(folder: Path) -> None:
    confirm(folder, session()[0], "tree0", (2.40, 2.41, 2.42))
    report = report_of(folder)
    assert [entry.id for entry in report.entries if entry.confirmed] == [idea_id(session()[0])]
    (look,) = report_json(report)["confirmations"]
    assert (look["verdict"], look["baseline"]["n"], look["mean"]) == ("confirmed", 20, pytest.approx(2.41))
    (table,) = [table for table in run_tables(report) if table.title == "Confirmations"]
    assert table.rows[0].cells[-1] == "confirmed"


def test_scores_of_several_machines_are_marked(folder: Path) -> None:
    titles = [row.cells[0] for row in run_tables(report_of(folder))[0].rows]
    assert "careful" not in titles
    with RunStore.open(folder) as store:
        (job,) = store.jobs(idea_id(session()[0]))
        assert job.evaluation is not None
        store.start_attempt(job.id)
        store.record_evaluation(job.id, 2, dataclasses.replace(job.evaluation, machine="another"), "key2")
    titles = [row.cells[0] for row in run_tables(report_of(folder))[0].rows]
    assert "careful" in titles


def test_a_hostile_text_is_kept_whole_in_json_and_made_printable_in_tables(folder: Path) -> None:
    report = report_of(folder)
    assert HOSTILE in [row["text"] for row in report_json(report)["candidates"]]
    cells = [cell for table in run_tables(report) for row in table.rows for cell in row.cells]
    assert any("<script>" in cell for cell in cells)
    assert not any("\x1b" in cell or "\u202e" in cell for cell in cells)
