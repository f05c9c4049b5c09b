"""Results that failed a check are listed with value, check and reason wherever a run is shown, and rank nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import Made, idea_id, make_run, session

from xar_agent.analysis.quarantine import failed_checks, flags_of
from xar_agent.analysis.report import RunReport, read_report
from xar_agent.analysis.report_json import report_json
from xar_agent.analysis.report_page import render_page
from xar_agent.analysis.report_tables import run_tables
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Check, Evaluation

BAD = "recitation: the patch carries text of the hidden split"
FLAG = "large_gain: 9.0 standard deviations better than the baseline"


@pytest.fixture
def report(tmp_path: Path) -> RunReport:
    """A run with an ordinary result, one that is flagged, and one that a check refused."""
    ideas = [
        Made("Ordinary.", [2.49]),
        Made("Recite it.", [1.2, 1.3], refused=BAD),
        Made("Too good?", [2.2], flags=(FLAG,)),
    ]
    with RunStore.open(make_run(tmp_path, ideas), read_only=True) as store:
        return read_report(store)


def test_a_refused_result_keeps_its_value_and_never_ranks(report: RunReport) -> None:
    assert [(one.seed, one.value, one.check) for one in report.quarantined] == [
        (0, 1.2, "recitation"), (1, 1.3, "recitation"),
    ]  # fmt: skip
    assert [entry.mean for entry in report.valid] == [2.2, 2.49]
    assert len(report.entries) == 3, "it is not dropped"


def test_tables_page_and_json_list_what_is_quarantined_and_what_is_flagged(report: RunReport) -> None:
    tables = {table.title: table for table in run_tables(report)}
    refused = idea_id(Made("Recite it."))
    assert tables["Quarantine"].rows[0].cells == (refused, "0", "1.2000", "recitation", BAD.partition(": ")[2])
    assert tables["Worth a look"].rows[0].cells[1:] == ("large_gain", FLAG.partition(": ")[2])
    assert ("data", "plays") in [row.cells for row in tables["What was run"].rows]
    page = render_page([report])
    assert "Quarantine" in page
    assert "carries text of the hidden split" in page
    told = report_json(report)
    assert told["quarantined"][0]["value"] == 1.2
    assert (told["quarantined"][0]["idea_id"], told["quarantined"][0]["check"]) == (refused, "recitation")
    assert told["corpora"] == ["plays"]
    assert [one["flags"] for one in told["candidates"] if one["flags"]] == [[FLAG]]


def test_a_run_without_trouble_has_neither_table(tmp_path: Path) -> None:
    with RunStore.open(make_run(tmp_path, session()[:2]), read_only=True) as store:
        titles = {table.title for table in run_tables(read_report(store))}
    assert not {"Quarantine", "Worth a look"} & titles


def evaluation(**changes: object) -> Evaluation:
    """One seed."""
    known = {"valid": False, "reasons": (), "checks": (), "flags": ()} | changes
    return Evaluation(
        "loss", 1.0, "min", seed=1, compute_ratio=1.0, train_cpu_s=1.0, train_wall_s=1.0, tokens=1, tree="t",
        checkpoint_sha256="c", env_version="e", evaluator_version="v", data_sha256="d", machine="m", **known,  # type: ignore[arg-type]
    )  # fmt: skip


def test_every_failed_check_is_named_also_in_records_that_only_have_reasons() -> None:
    both = (Check("shape", True), Check("finite", False, "NaN"), Check("budget", False, "over"))
    assert list(failed_checks(evaluation(checks=both))) == [("finite", "NaN"), ("budget", "over")]
    assert list(failed_checks(evaluation(reasons=("finite: NaN",)))) == [("finite", "NaN")]
    assert list(failed_checks(evaluation(reasons=("it was not: so",)))) == [("", "it was not: so")]
    assert list(failed_checks(evaluation())) == [("", "the evaluator found no value")]
    assert list(failed_checks(evaluation(valid=True, checks=both))) == []


def test_flags_of_several_seeds_are_told_once_a_kind() -> None:
    seeds = [evaluation(flags=("floor: 1", "curve: a")), evaluation(flags=("floor: 2",))]
    assert flags_of(seeds) == ("floor: 1", "curve: a")
