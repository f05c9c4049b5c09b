"""README.md of this folder, written from results.json."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LATE_S = 1.0
CASES = {
    "sleep": "sleep",
    "sigterm_ignored": "SIGTERM ignored",
    "daemon": "setsid + double fork",
    "daemon_with_pipe": "the same, holding the pipe",
    "grandchild_with_pipe": "command ends, grandchild holds the pipe",
    "stopped_child": "SIGSTOPped child",
}


def write_readme(result: dict[str, Any], path: Path) -> None:
    """Fill the template."""
    measured = {name: one for name, one in result["contenders"].items() if "unavailable" not in one}
    parts = {
        "about": about(result),
        "contenders": contenders(result["contenders"]),
        "times": times(measured),
        "ratios": ratios(measured),
        "deadlines": deadlines(measured),
        "memory": memory(measured),
        "findings": findings(measured),
    }
    text = (HERE / "README.template.md").read_text()
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    path.write_text(text)


def rows_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(result: dict[str, Any]) -> str:
    """Machine, date, load."""
    told, settings = result["about"], result["settings"]
    loads = [load[0] for load in result["load"].values()]
    machine = f"{told['cores']} cores ({told['cpu']}), Linux {told['kernel']}, Python {told['python']}"
    return (
        f"Measured on {told['date'][:16].replace('T', ' ')} UTC as {told['user']}, {machine}; load (1 minute) "
        f"{min(loads):.1f} to {max(loads):.1f}, this measurement's own included. {settings['n']} commands, "
        f"{settings['starts']} starts, {settings['attempts']} attempts a hostile case; cap {settings['cap_s']:.0f} s."
    )


def contenders(all_of_them: dict[str, Any]) -> str:
    """Who took part, and who could not."""
    lines = []
    for name, one in all_of_them.items():
        words = f"not measured here: {one['unavailable']}" if "unavailable" in one else one["about"]
        lines.append(f"- **{name}**: {words}")
    return "\n".join(lines)


def percentile(values: Sequence[float], share: int) -> float:
    """Linear between neighbours."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def median_start_ms(one: dict[str, Any]) -> float:
    """From nothing to the first answer."""
    return float(statistics.median(start["open_ms"] + start["first_ms"] for start in one["starts"]))


def times(measured: dict[str, Any]) -> str:
    """Latency and start."""
    head = ["", "`true`, p50 ms", "p95 ms", "start to first answer, ms", "take down, ms", "load the library, s"]
    rows = []
    for name, one in measured.items():
        close_ms = statistics.median(start["close_ms"] for start in one["starts"])
        figures = [percentile(one["exec_ms"], 50), percentile(one["exec_ms"], 95), median_start_ms(one), close_ms]
        rows.append([name, *(f"{figure:.1f}" for figure in figures), f"{one['load_s']:.2f}"])
    return rows_of(head, rows)


def ratios(measured: dict[str, Any]) -> str:
    """Ours over theirs."""
    peers = [name for name, one in measured.items() if not one["ours"]]
    rows = []
    for name, one in measured.items():
        if one["ours"]:
            cells = [f"{ratio_ms(one, measured[peer])}" for peer in peers]
            rows.append([name, *cells])
    return rows_of(["ours / theirs: exec p50, p95, start", *peers], rows)


def ratio_ms(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Three ratios."""
    pairs = [(percentile(ours["exec_ms"], share), percentile(theirs["exec_ms"], share)) for share in (50, 95)]
    pairs.append((median_start_ms(ours), median_start_ms(theirs)))
    return ", ".join(f"{a / b:.2g}" if a / b < 10 else f"{a / b:.0f}" for a, b in pairs)


def deadlines(measured: dict[str, Any]) -> str:
    """Overshoot and survivors."""
    names = list(measured)
    rows = [[words, *(outcome(measured[name]["cases"][case]) for name in names)] for case, words in CASES.items()]
    return rows_of(["", *names], rows)


def outcome(tried: Sequence[dict[str, Any]]) -> str:
    """Worst of the attempts."""
    left = max(one["survivors"] for one in tried)
    late = max(one["overshoot_s"] for one in tried)
    hung = [one["elapsed_s"] for one in tried if one["hung"]]
    words = f"**hung > {max(hung):.0f} s**" if hung else f"+{late:.2f} s"
    if not hung and all(one["elapsed_s"] < 1 for one in tried):
        words = f"at {max(one['elapsed_s'] for one in tried):.2f} s"
    if left:
        words += f", **{left} left**"
    return words if hung or all(one["next_right"] for one in tried) else f"{words}, next command wrong"


def memory(measured: dict[str, Any]) -> str:
    """The flood."""
    head = ["", "before, MiB", "growth, MiB", "its largest child, MiB", "seconds", "characters kept", ""]
    rows = []
    for name, one in measured.items():
        flood = one["memory"]
        end = "hung" if flood["hung"] else "failed: " + flood["error"] if flood["error"] else ""
        if not end and not flood["kept_chars"]:
            end = "not read to its end by the deadline"
        mib = [f"{flood[key]:.1f}" for key in ("before_mib", "growth_mib", "children_mib")]
        rows.append([name, *mib, f"{flood['took_s']:.1f}", f"{flood['kept_chars']:,}", end])
    return rows_of(head, rows)


def findings(measured: dict[str, Any]) -> str:
    """One line a contender: what it did not hold."""
    return "\n".join(f"- **{name}**: {finding(one)}" for name, one in measured.items())


def finding(one: dict[str, Any]) -> str:
    """In words."""
    said = []
    for what in dict.fromkeys(fault for case in CASES for fault in faults(one["cases"][case])):
        cases = [words for case, words in CASES.items() if what in faults(one["cases"][case])]
        said.append(f"{what} in {len(cases)} of {len(CASES)} ({'; '.join(cases)})")
    return ". ".join(said) or f"held in all {len(CASES)}"


def faults(tried: Sequence[dict[str, Any]]) -> list[str]:
    """What went wrong in a case, in any attempt."""
    if any(one["hung"] for one in tried):
        return ["hung"]
    seen = {
        "left processes": any(one["survivors"] for one in tried),
        f"late by {LATE_S:.0f} s or more": any(one["overshoot_s"] >= LATE_S for one in tried),
        "lost the sandbox": not all(one["next_right"] for one in tried),
    }
    return [what for what, is_so in seen.items() if is_so]
