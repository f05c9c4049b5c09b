"""A person's own diff through the real command line: trained, scored, recorded, read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.bwrap

MakePatch = Callable[[str, str], Path]
RATE = "LEARNING_RATE = 1.0\n"


def test_a_diff_is_scored_recorded_and_read_again(
    xar: Any, runs_dir: Path, make_patch: MakePatch, json_keys: set[str], planted_key: str, leaks: Any
) -> None:
    patch = make_patch(RATE, "LEARNING_RATE = 3.0\n")
    ended = xar("evaluate", patch, "--env", "toy", "--run", "r", "--seed", "5", "--json", "--debug")
    assert ended.code == 0, ended.err
    found = ended.json
    assert set(found) == json_keys
    assert found["smoke"] == {"passed": True, "reason": ""}
    assert found["job"]["state"] == "succeeded"
    assert (found["evaluation"]["valid"], found["evaluation"]["seed"]) == (True, 5)
    assert (found["evaluation"]["metric"], found["evaluation"]["direction"]) == ("val_loss", "min")
    assert (found["model"], found["sandbox"], found["fidelity"]) == (None, "bubblewrap", "effect")
    assert "+LEARNING_RATE = 3.0" in Path(found["patch_path"]).read_text()
    assert json.loads(Path(found["patch_path"]).with_name("smoke.json").read_text())["passed"] is True
    assert leaks(runs_dir, planted_key) == []
    assert planted_key not in ended.out + ended.err
    check_readers(xar, found)


def check_readers(xar: Any, found: dict[str, Any]) -> None:
    """What ``evaluate`` said is what the reading verbs say."""
    (run,) = xar("runs", "list", "--json").json["runs"]
    assert (run["run"], run["valid"], run["active"]) == ("r", 1, False)
    assert xar("runs", "path", "r").out.strip() == found["run_dir"]
    (candidate,) = xar("runs", "show", "r", "--json").json["candidates"]
    assert candidate["score"]["mean"] == found["evaluation"]["value"]
    assert f"{found['evaluation']['value']:.4f}" in xar("runs", "show", "r").out
    job = xar("jobs", "show", found["job"]["id"], "--json").json
    assert job["evaluation"]["value"] == found["evaluation"]["value"]
    assert "check prefix_audit" in xar("jobs", "show", found["job"]["id"][:6]).out
    assert xar("jobs", "logs", found["job"]["id"]).code == 0


def test_a_diff_that_crashes_is_told_with_its_place(xar: Any, make_patch: MakePatch) -> None:
    patch = make_patch(RATE, RATE + "raise ValueError('no \\x1b[31mluck')\n")
    ended = xar("evaluate", patch, "--env", "toy")
    assert ended.code == 1
    assert "smoke     failed: CODE: ValueError: no luck" in ended.err
    assert "(train.py:17)" in ended.err
    assert "\x1b" not in ended.err + ended.out
    assert "CODE: ValueError: no luck" in ended.out


def test_a_diff_from_stdin_whose_context_does_not_fit_is_refused(
    xar: Any, make_patch: MakePatch, runs_dir: Path
) -> None:
    shifted = make_patch(RATE, "LEARNING_RATE = 3.0\n").read_text().replace("BLOCK_SIZE = 32", "BLOCK_SIZE = 31")
    ended = xar("evaluate", "-", "--env", "toy", "--json", stdin=shifted)
    assert ended.code == 2
    assert "does not apply" in ended.json["error"]
    assert list(runs_dir.iterdir()) == []


def test_a_diff_of_a_protected_file_is_refused(xar: Any, runs_dir: Path, tmp_path: Path) -> None:
    patch = tmp_path / "p.patch"
    patch.write_text("--- /dev/null\n+++ b/evil.py\n@@ -0,0 +1 @@\n+print(1)\n")
    ended = xar("evaluate", patch, "--env", "toy")
    assert ended.code == 2
    assert "evil.py" in ended.error_lines[-1]
    assert "editable: train.py, model.py" in ended.error_lines[-1]
    assert list(runs_dir.iterdir()) == []


def test_a_time_budget_that_ends_training_is_told_with_what_there_is(xar: Any, make_patch: MakePatch) -> None:
    patch = make_patch(RATE, RATE + "import time\nif int(os.environ['XAR_BUDGET']) > 5000:\n    time.sleep(300)\n")
    ended = xar("evaluate", patch, "--env", "toy", "--run", "r", "--json", "--budget-hours", str(12 / 3600))
    assert ended.code == 1, ended.err
    found = ended.json
    assert (found["outcome"], found["exit_reason"]) == ("over_budget", "the time budget is used up")
    assert (found["smoke"]["passed"], found["job"]["state"], found["verdict"]) == (True, "cancelled", "none")
    assert ended.error_lines[-1].startswith("error: the time budget is used up; ")


def test_the_process_sandbox_says_that_it_does_not_isolate(xar: Any, make_patch: MakePatch) -> None:
    patch = make_patch(RATE, RATE + "raise ValueError('stop here')\n")
    ended = xar("evaluate", patch, "--env", "toy", "--sandbox", "process")
    assert "NOT ISOLATED" in ended.err
