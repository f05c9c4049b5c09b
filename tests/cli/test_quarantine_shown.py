"""``runs show`` and ``report`` tell of results that failed a check, and of what a person should look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_runs import Made, make_run

BAD = "recitation: the patch carries text of the hidden split"
FLAG = "large_gain: 9.0 standard deviations better than the baseline"


def test_a_quarantined_result_is_shown_with_value_check_and_reason(xar: Any, runs_dir: Path) -> None:
    make_run(runs_dir, [Made("Recite it.", [1.25], refused=BAD), Made("Too good?", [2.2], flags=(FLAG,))], "q")
    shown = xar("runs", "show", "q").out
    assert "quarantined" in shown
    assert all(word in " ".join(shown.split()) for word in ("1.2500", "recitation", "worth a look", "plays"))
    told = xar("runs", "show", "q", "--json").json
    assert [(one["value"], one["check"]) for one in told["quarantined"]] == [(1.25, "recitation")]
    assert [one["flags"] for one in told["candidates"]] == [[FLAG], []]
    assert told["candidates"][0]["score"]["mean"] == 2.2, "the refused one does not come first"
    report = xar("report", "q").out
    assert "Quarantine" in report
    assert "Worth a look" in report
