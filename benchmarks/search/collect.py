"""Put finished searches beside each other and beside luck: a table for README.md, and results.json.

python benchmarks/search/collect.py RUN_FOLDER...
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from xar_agent.envs.spec import load_env
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.scoring import luck

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import about_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package

COMMAND = Path(sys.executable).with_name("xar-agent")
N_NULL = 24
NULL_RUNS = HERE.parent / "noop" / "results.json"
"""Forty runs of a patch that changes nothing, at seeds that the baseline never saw."""


def report_of(run: Path) -> dict[str, Any]:
    """What ``report --json`` says of one run."""
    command = [str(COMMAND), "report", str(run), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def row_of(run: Path) -> dict[str, Any]:
    """One search: what it was, its best candidate, and what confirming it gave."""
    report = report_of(run)
    settings = json.loads((run / "run.json").read_text())["settings"]
    valid = [one for one in report["candidates"] if one["score"] and one["score"]["mean"] is not None]
    best = valid[0] if valid else None
    return {
        "run": run.name,
        "policy": settings["policy"],
        "ideas_from": settings["ideas_from"],
        "model": settings["model"],
        "ideas": len(report["candidates"]),
        "valid": len(valid),
        "wall_s": json.loads((run / "clock.json").read_text())["used_s"],
        "best": {"text": best["text"], "score": best["score"], "verdict": best["verdict"]} if best else None,
        "confirmations": report["confirmations"],
    }


def null_row(env: str, preset: str) -> dict[str, Any]:
    """What luck alone gives: the best of the first null runs that were measured, and what theory expects."""
    spec = load_env(env)
    baseline = baseline_for(spec, preset)
    assert baseline is not None
    values = [run["value"] for run in json.loads(NULL_RUNS.read_text())["runs"][:N_NULL]]
    mean, bound = luck(N_NULL, baseline, spec.direction)
    return {"n": N_NULL, "best_measured": min(values), "best_expected": mean, "bound_95": bound}


def table(rows: list[dict[str, Any]], null: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| search | ideas (valid) | wall | best on the search's text | its gain on the hidden text (fresh seeds) |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        best, looks = row["best"], row["confirmations"]
        found = f"{best['score']['mean']:.4f}: {best['text']}" if best else "none"
        told = "; ".join(
            f"{look['gain']:+.4f} [{look['gain_lo']:+.4f}, {look['gain_hi']:+.4f}], corrected p = "
            f"{look['p_corrected']:.2g}, {len(look['values'])} seeds: {look['verdict'].replace('_', ' ')}"
            for look in looks
        )
        name = f"{row['policy']}, ideas from {row['model'] or 'the knob menu'}"
        lines.append(f"| {name} | {row['ideas']} ({row['valid']}) | {row['wall_s'] / 60:.0f} min | {found} | {told} |")
    lines.append(
        f"| best of {null['n']} null runs | {null['n']} | | {null['best_measured']:.4f} measured; "
        f"{null['best_expected']:.4f} expected, 95 % bound {null['bound_95']:.4f} | nothing to confirm |"
    )
    return "\n".join(lines)


def main() -> None:
    """Read the runs, write results.json, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished evolve runs")
    parser.add_argument("--env", default="nanogpt")
    parser.add_argument("--preset", default="cpu")
    arguments = parser.parse_args()
    rows = [row_of(run) for run in arguments.runs]
    null = null_row(arguments.env, arguments.preset)
    written = {"about": about_now(), "searches": rows, "null": null}
    (HERE / "results.json").write_text(json.dumps(written, indent=1) + "\n")
    print(table(rows, null))


if __name__ == "__main__":
    main()
