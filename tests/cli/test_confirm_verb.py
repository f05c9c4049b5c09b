"""Fresh seeds and the hidden split through the real command line: for a run and a diff, cut off and gone on with."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xar_agent.jobs.runs import RunStore

pytestmark = pytest.mark.bwrap

MakePatch = Callable[[str, str], Path]
RATE = "LEARNING_RATE = 1.0\n"
FASTER = "LEARNING_RATE = 3.0\n"
WAIT_S = 90.0


def test_the_best_candidate_of_a_run_is_confirmed_and_recorded_there(
    xar: Any, runs_dir: Path, make_patch: MakePatch
) -> None:
    searched = xar("evaluate", make_patch(RATE, FASTER), "--env", "toy", "--run", "r", "--json").json
    assert searched["verdict"] == "better"
    before = xar("runs", "show", "r", "--json").json["candidates"]
    ended = xar("confirm", "r", "--seeds", "3", "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    (one,) = found["confirmations"]
    assert (found["verdict"], found["split"], found["pending"], found["warnings"]) == ("confirmed", "hidden", [], [])
    assert (one["idea_id"], one["patch_path"]) == (searched["idea_id"], searched["patch_path"])
    assert (one["looks"], one["score"]["n"], one["baseline"]["n"], one["baseline"]["shipped"]) == (1, 3, 24, True)
    assert one["gain"]["lo"] > 0
    assert one["p_corrected"] == one["p"] < 0.05
    assert searched["evaluation"]["seed"] not in one["seeds"]
    assert xar("runs", "show", "r", "--json").json["candidates"] == before, "the search's scores stay as they were"
    jobs = xar("jobs", "list", "--run", "r", "--json").json["jobs"]
    assert [job["split"] for job in jobs] == ["val", "hidden", "hidden", "hidden"]
    assert "toy/default (hidden)" in xar("jobs", "list", "--run", "r").out
    assert json.loads((runs_dir / "r" / "confirm" / "1.json").read_text())["seeds"] == one["seeds"]


def test_a_diff_gets_a_run_of_its_own_which_survives_kill_9(xar: Any, runs_dir: Path, make_patch: MakePatch) -> None:
    arguments = ("confirm", make_patch(RATE, FASTER), "--env", "toy", "--seeds", "3", "--run", "r")
    command = xar.start(*arguments)
    done = wait_for_a_result(runs_dir / "r" / "xar.db")
    command.send_signal(signal.SIGKILL)
    command.communicate()
    assert len(done) < 3
    (cut_off,) = (runs_dir / "r" / "confirm").iterdir()
    assert json.loads(cut_off.read_text())["finding"] is None

    ended = xar(*arguments)
    assert ended.code == 0, ended.err
    assert "confirmed: better than the baseline on fresh seeds and unseen text" in ended.out
    assert "after 1 look at the hidden split in this run" in ended.out
    with RunStore.open(runs_dir, "r", read_only=True) as store:
        jobs = {job.id: job.attempt for job in store.jobs()}
        assert store.record["settings"]["verb"] == "confirm"
    assert len(jobs) == 3
    assert all(jobs[job_id] == 1 for job_id in done), "no seed is trained twice"
    assert [path.name for path in (runs_dir / "r" / "confirm").iterdir()] == ["1.json"]


def wait_for_a_result(database: Path) -> list[str]:
    """Ids of the jobs that have a result, as soon as there is one."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if database.is_file():
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as reader:
                try:
                    rows = reader.execute("SELECT job_id FROM evaluations").fetchall()
                except sqlite3.OperationalError:  # it is being made
                    continue
                finally:
                    reader.rollback()
            reader.close()
            if rows:
                return [row[0] for row in rows]
    raise AssertionError("no result came")


def test_a_diff_that_crashes_is_invalid(xar: Any, make_patch: MakePatch) -> None:
    patch = make_patch(RATE, RATE + "raise ValueError('no luck')\n")
    ended = xar("confirm", patch, "--env", "toy", "--seeds", "3", "--json")
    assert ended.code == 1
    assert ended.json["verdict"] == "invalid"
    assert ended.json["confirmations"][0]["reasons"] == ["CODE: ValueError: no luck"]
    assert ended.json["confirmations"][0]["p"] is None


def test_a_time_budget_leaves_a_look_that_can_be_gone_on_with(xar: Any, make_patch: MakePatch) -> None:
    patch = make_patch(RATE, RATE + "import time\nif int(os.environ['XAR_BUDGET']) > 5000:\n    time.sleep(300)\n")
    ended = xar("confirm", patch, "--env", "toy", "--run", "r", "--json", "--budget-hours", str(6 / 3600))
    assert ended.code == 1, ended.err
    assert (ended.json["verdict"], ended.json["pending"]) == ("none", [1])
    assert ended.json["error"] == "the time budget is used up"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "no run 'nothing'"),
        (("PATCH",), "needs --env"),
        (("PATCH", "--env", "toy", "--seeds", "2"), "at least 3 seeds, not 2"),
        (("PATCH", "--env", "toy", "--top", "2"), "among the candidates of a RUN"),
        (("PATCH", "--env", "nowhere"), "no environment"),
        (("PATCH", "--env", "toy", "--preset", "huge"), "no preset"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    xar: Any, runs_dir: Path, make_patch: MakePatch, arguments: tuple[str, ...], words: str
) -> None:
    patch = make_patch(RATE, FASTER)
    ended = xar("confirm", *[str(patch) if one == "PATCH" else one for one in arguments], "--json")
    assert ended.code == 2
    assert words in ended.json["error"]
    assert list(runs_dir.iterdir()) == []


def test_a_comment_is_not_worth_a_look(xar: Any, runs_dir: Path, make_patch: MakePatch) -> None:
    ended = xar("confirm", make_patch(RATE, f"# slow\n{RATE}"), "--env", "toy", "--json")
    assert ended.code == 2
    assert "comments and layout only" in ended.json["error"]
    assert list(runs_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--run", "other"), "a RUN keeps its own name"),
        (("--preset", "huge"), "is of toy/default"),
        (("--env", "nanogpt"), "is of toy/default"),
        (("--idea", "x", "--top", "2"), "not both"),
        (("--idea", "x"), "no idea 'x'"),
    ],
)
def test_options_that_do_not_fit_the_run_are_refused(
    xar: Any, runs_dir: Path, options: tuple[str, ...], words: str
) -> None:
    RunStore.create(runs_dir, "r", {"env": "toy", "preset": "default"}).close()
    ended = xar("confirm", "r", *options, "--json")
    assert ended.code == 2
    assert words in ended.json["error"]


def test_a_run_without_a_valid_score_has_nothing_to_confirm(xar: Any, runs_dir: Path) -> None:
    RunStore.create(runs_dir, "r", {"env": "toy", "preset": "default"}).close()
    ended = xar("confirm", "r", "--json")
    assert ended.code == 1
    assert "no candidate of this run" in ended.json["error"]


def test_a_run_in_use_is_left_alone(xar: Any, runs_dir: Path) -> None:
    with RunStore.create(runs_dir, "r", {"env": "toy", "preset": "default"}):
        ended = xar("confirm", "r", "--json")
    assert ended.code == 2
    assert list((runs_dir / "r").glob("confirm")) == []


def test_a_run_of_another_version_of_the_environment_is_refused(xar: Any, runs_dir: Path) -> None:
    RunStore.create(runs_dir, "r", {"env": "toy", "preset": "default", "env_version": "old"}).close()
    ended = xar("confirm", "r", "--json")
    assert ended.code == 2
    assert "has changed since run r" in ended.json["error"]
