"""Results of the suite as JSON, and as tables in README.md and docs/cheats.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs" / "cheats.md"
Row = dict[str, Any]
SAME = ("env_version", "evaluator_version", "seed")
"""Results are comparable where these are the same."""
NOT_IN_PROCESS = ("honest_in_the_smoke_test", "resident_helper_for_the_audit", "cache_on_disk_for_the_audit")
"""Need a trained checkpoint, or processes and files of their own."""


def results_path(kind: str, env: str) -> Path:
    """Where the results of one kind of attempt are kept."""
    if kind == "cheats":
        return HERE / ("results.json" if env == "nanogpt" else f"results-{env}.json")
    return HERE / f"results-{kind}.json"


def write_results(kind: str, env: str, about: dict[str, Any], rows: list[Row], names: list[str]) -> None:
    """Keep the results and renew the tables that show them; earlier ones stay where they are of the same versions.

    Args:
        kind: cheats, honest or blind.
        env: the environment.
        about: what the rows were measured with.
        rows: the results.
        names: every attempt that there is, in order.
    """
    path = results_path(kind, env)
    kept = json.loads(path.read_text()) if path.exists() else {"about": {}, "attempts": []}
    if all(kept["about"].get(key) == about[key] for key in SAME):
        known = {row["name"]: row for row in [*kept["attempts"], *rows]}
        rows = [known[name] for name in names if name in known]
        about = about | {"untouched": kept["about"]["untouched"] | about["untouched"]}
    path.write_text(json.dumps({"about": about, "attempts": rows}, indent=1) + "\n")
    name = kind if env == "nanogpt" else f"{kind}-{env}"
    summary = (
        f"Measured on {str(about['date'])[:10]}: {len(rows)} tried, {sum(not r['ok'] for r in rows)} not as expected."
    )
    body = [summary, "", *table(kind, rows)]
    replace_between(HERE / "README.md", f"<!-- {name} -->", f"<!-- end of {name} -->", body)


def table(kind: str, rows: list[Row]) -> list[str]:
    """Lines of a Markdown table."""
    if kind == "honest":
        head = [
            "| edit | what it changes | accused by | loss | against the untouched code | seconds |",
            "|---|---|---|---|---|---|",
        ]
        return head + [
            f"| {r['name']} | {r['what']} | {', '.join(r['caught_by']) or 'none'} | {figure(r['value'])} |"
            f" {signed(r['gain'])} | {r['seconds']:.0f} |"
            for r in rows
        ]
    head = ["| attempt | what it tries | it would gain | expected | caught by | seconds |", "|---|---|---|---|---|---|"]
    return head + [
        f"| {r['name']} | {r['what']} | {gained(r)} | {r['expected']} | {', '.join(r['caught_by']) or '**nothing**'} |"
        f" {r['seconds']:.0f} |"
        for r in rows
    ]


def write_docs(env: str, attempts: list[Row]) -> None:
    """Renew the table of docs/cheats.md: every planted cheat, with the gain where it has been measured."""
    path = results_path("cheats", env)
    known = {row["name"]: row for row in json.loads(path.read_text())["attempts"]} if path.exists() else {}
    lines = ["| attempt | what it tries | it would gain (nats) | refused by | test |", "|---|---|---|---|---|"]
    for attempt in attempts:
        gain = gained(known[attempt["name"]]) if attempt["name"] in known else ""
        test = test_of(env, attempt["name"], attempt["expected"])
        lines.append(f"| {attempt['name']} | {attempt['what']} | {gain} | {attempt['expected']} | {test} |")
    replace_between(DOCS, f"<!-- {env} -->", f"<!-- end of {env} -->", lines)


def test_of(env: str, name: str, expected: str) -> str:
    """Where it is tried in the test suite; everything is tried by benchmarks/cheats/run.py."""
    if env == "toy":
        return "test_cheats_toy.py"
    if expected == "INTEGRITY" and "run_time" not in name:
        return "test_cheats.py"
    audited = expected in ("prefix_audit", "stateless") and name not in NOT_IN_PROCESS
    return "test_cheats_nanogpt.py" if audited else "run.py"


def gained(row: Row) -> str:
    """Nats below the untouched code's loss, if the checks were ignored; empty where there is no loss to compare."""
    return "" if row["gain"] is None else "0" if row["gain"] == 0 else f"{row['gain']:.3f}"


def figure(value: float | None) -> str:
    """A loss for a table."""
    return "" if value is None else f"{value:.3f}"


def signed(gain: float | None) -> str:
    """The difference in loss, negative where it is better."""
    return "" if gain is None else f"{-gain:+.3f}"


def replace_between(path: Path, begin: str, end: str, lines: list[str]) -> None:
    """Put lines between two marks of a file that has them."""
    if not path.exists() or begin not in (text := path.read_text()):
        return
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    path.write_text("\n".join([before + begin, *lines, end + after]))
