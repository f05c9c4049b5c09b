"""A result card through the command line: made by ``evaluate``, checked by ``verify``; a forged one is not believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xar_agent.jobs.card import with_digest

MakePatch = Callable[[str, str], Path]


def edited(card: Path, name: str, change: Callable[[dict[str, Any]], None], *, redo_digest: bool) -> Path:
    """A copy of a card that somebody has changed."""
    record = json.loads(card.read_text())
    change(record)
    copy = card.with_name(name)
    copy.write_text(json.dumps(with_digest(record) if redo_digest else record))
    return copy


def better(record: dict[str, Any]) -> None:
    """The value made a little better, too little for another verdict, and the mean with it."""
    record["evaluations"][0]["value"] -= 0.00001
    record["score"]["mean"] -= 0.00001


@pytest.mark.bwrap
def test_a_card_is_reproduced_here_and_a_forged_one_is_not(xar: Any, make_patch: MakePatch) -> None:
    patch = make_patch("WEIGHT_DECAY = 0.0", "WEIGHT_DECAY = 0.001")
    found = xar("evaluate", patch, "--env", "toy", "--run", "r", "--seed", "7", "--json", timeout_s=500).json
    card = Path(found["card_path"])
    assert card == Path(found["patch_path"]).with_name("card.json")
    assert found["quarantined"] == []
    assert {"protected_files", "budget", "compute", "recitation"} <= {c["name"] for c in found["evaluation"]["checks"]}

    again = xar("verify", card, "--run", "v", "--json", timeout_s=500)
    assert again.code == 0, again.err
    told = again.json
    assert (told["verdict"], told["rule"], told["differences"]) == ("reproduced", "same values", [])
    assert told["seeds"][0]["here"] == pytest.approx(found["evaluation"]["value"], abs=1e-6)
    assert (told["env"], told["corpus"], Path(told["run_dir"]).name) == ("toy", found["evaluation"]["corpus"], "v")

    forged = xar("verify", edited(card, "forged.json", better, redo_digest=True), timeout_s=500)
    assert forged.code == 1, forged.err
    assert "not reproduced" in forged.out
    assert "seed 7" in forged.out

    torn = xar("verify", edited(card, "torn.json", better, redo_digest=False), "--json")
    assert (torn.code, "changed after it was made" in torn.json["error"]) == (2, True)

    def other_evaluator(record: dict[str, Any]) -> None:
        record["env"]["evaluator_version"] = "0" * 12

    other = xar("verify", edited(card, "other.json", other_evaluator, redo_digest=True), "--json")
    assert other.code == 2
    assert "cannot be verified with these files: the evaluator is" in other.json["error"]
    assert xar("verify", card, "--seeds", "2").code == 2, "the card has one seed"


def test_what_is_no_card_is_refused_before_anything_runs(xar: Any, tmp_path: Path, runs_dir: Path) -> None:
    missing = xar("verify", tmp_path / "card.json")
    assert (missing.code, "cannot read the card" in missing.error_lines[-1]) == (2, True)
    (tmp_path / "card.json").write_text('{"format": 99}')
    assert xar("verify", tmp_path / "card.json", "--json").json["error"].endswith("this release reads 1")
    assert list(runs_dir.iterdir()) == []
