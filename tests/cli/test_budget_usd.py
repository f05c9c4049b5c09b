"""A budget in USD over a script whose replies have a price."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xar_agent.store import read_lines

pytestmark = pytest.mark.bwrap
SCRIPT = Path(__file__).resolve().parents[1] / "toy_evolve.json"
USD_A_TOKEN = 2e-6


def priced(path: Path, usd_a_token: float) -> Path:
    """The script with the price of each reply."""
    script = json.loads(SCRIPT.read_text())
    for reply in (reply for case in script["cases"] for reply in case["replies"]):
        reply["cost_usd"] = usd_a_token * (reply["input_tokens"] + reply["output_tokens"])
    path.write_text(json.dumps(script))
    return path


@pytest.mark.usefixtures("user_cache")
@pytest.mark.parametrize("limit", [0.003, 0.0385])
def test_a_scripts_prices_count_against_the_budget_before_a_reply_is_given(
    xar: Any, runs_dir: Path, tmp_path: Path, limit: float
) -> None:
    model = f"scripted/{priced(tmp_path / 'priced.json', USD_A_TOKEN)}"
    ended = xar("evolve", "--env", "toy", "--policy", "hill-climb", "--model", model, "--ideas", "4", "--epochs", "1",
                "--parallel", "1", "--run", "r", "--budget-usd", str(limit), "--json")  # fmt: skip
    assert ended.json["stopped"] == f"the budget of {limit:g} USD is used up"
    ledger = runs_dir / "r" / "ledger.jsonl"
    spent = sum(line["usd"] for line in read_lines(ledger) if "settle" in line) if ledger.exists() else 0.0
    assert spent <= limit
    assert (spent > 0) == (limit > 0.03)
