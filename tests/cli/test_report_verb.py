"""``report``: tables for a person, one object for a program, a plot and a page on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_runs import make_run, session


def test_a_real_run_of_one_patch_is_reported(xar: Any, make_patch: Any) -> None:
    patch = make_patch("LEARNING_RATE = 1.0", "LEARNING_RATE = 0.8")
    made = xar("evaluate", patch, "--env", "toy", "--run", "mine", "--sandbox", "process", "--seeds", "2")
    assert made.code == 0, made.err
    found = xar("report", "mine", "--json").json
    (row,) = found["candidates"]
    assert (found["run"], found["env"], found["preset"], found["metric"]) == ("mine", "toy", "default", "val_loss")
    assert row["score"]["n"] == 2
    assert found["best"] == row
    assert [e["seed"] for e in row["evaluations"]] == [1, 2]
    assert Path(row["patch_path"]).is_file()
    assert found["spend"]["cpu_hours"] > 0
    assert f"{row['score']['mean']:.4f}" in xar("report", "mine").out


def test_tables_go_to_stdout_and_say_where_plot_and_page_are(xar: Any) -> None:
    folder = make_run(xar.folder / "runs", session())
    ended = xar("report", str(folder), "--html", "out/page.html")
    assert (ended.code, ended.err) == (0, "")
    for title in ("What was run", "Candidates", "What luck alone gives", "Completion rate", "Failures", "Spend"):
        assert f"\n{title}\n" in f"\n{ended.out}"
    assert "runs/run/report/best_so_far.png" in ended.out
    assert "out/page.html" in ended.out
    assert "\x1b" not in ended.out
    assert (folder / "report" / "best_so_far.svg").is_file()
    assert (xar.folder / "out" / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_several_runs_stand_beside_each_other(xar: Any) -> None:
    folders = [make_run(xar.folder / "runs", session(), name) for name in ("one", "two")]
    ended = xar("report", *map(str, folders))
    assert "Runs beside each other" in ended.out
    (heading,) = [line.split() for line in ended.out.splitlines() if line.split() == ["one", "two"]]
    assert heading == ["one", "two"]
    found = xar("report", *map(str, folders), "--json").json
    assert [run["run"] for run in found["runs"]] == ["one", "two"]


def test_a_folder_that_takes_no_plot_is_reported_all_the_same(xar: Any) -> None:
    folder = make_run(xar.folder / "runs", session())
    (folder / "report").write_text("a file where the plots would go")
    ended = xar("report", str(folder), "--json")
    assert ended.code == 0
    assert ended.json["plot"] is None
    assert "the plot was not written" in ended.err


def test_a_run_that_is_not_there_is_the_users_mistake(xar: Any) -> None:
    ended = xar("report", "nothing")
    assert ended.code == 2
    assert "no run 'nothing'" in ended.err
    assert xar("report").code == 2
