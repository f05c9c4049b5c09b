"""Several runs beside each other: a column a run."""

from __future__ import annotations

from collections.abc import Sequence

from xar_agent.analysis.report import RunReport
from xar_agent.analysis.report_cells import NONE, Row, Table, interval_text, score_text, verdict_text
from xar_agent.analysis.report_counts import epochs_of, failures_of, is_beyond, luck_of, rate_of
from xar_agent.analysis.report_tables import bill_cells, budget_text, policy_text
from xar_agent.analysis.text import one_line


def compare_tables(reports: Sequence[RunReport]) -> tuple[Table, ...]:
    """What was run and what it came to, the best so far by epoch, and failures by class."""
    found = (outcome_table(reports), epochs_table(reports), failures_table(reports))
    return tuple(table for table in found if table.rows)


def headings(reports: Sequence[RunReport], first: str) -> tuple[str, ...]:
    """The runs' names."""
    return (first, *(one_line(report.name, 40) for report in reports))


def outcome_table(reports: Sequence[RunReport]) -> Table:
    """One line a figure."""
    columns = [outcome_cells(report) for report in reports]
    rows = tuple(Row((label, *(column[label] for column in columns))) for label in columns[0])
    return Table("Runs beside each other", headings(reports, ""), rows, careful(reports))


def outcome_cells(report: RunReport) -> dict[str, str]:
    """Label and text of each figure of one run."""
    settings, rate, best, chance = report.settings, rate_of(report.entries), report.best, luck_of(report)
    share = NONE if rate.share is None else f"{rate.valid} / {rate.ideas} = {rate.share:.0%} ({interval_text(rate)})"
    beside = "" if chance is None else " (beyond it)" if is_beyond(report, chance) else " (not beyond it)"
    bound = NONE if chance is None else f"{chance.bound:.4f}, n = {chance.n}{beside}"
    n_best = best.candidate.score.n if best and best.candidate.score else 0
    gain = NONE if best is None or best.gain_sd is None else f"{best.gain_sd:+.1f} sd"
    confirmed = sum(look.verdict == "confirmed" for look in report.confirmations)
    usd, *_, cpu_hours, _, elapsed = bill_cells(report.bill)
    return {
        "environment": f"{settings.get('env')}/{settings.get('preset')}",
        "policy": policy_text(report),
        "model": one_line(str(settings.get("model") or "none"), 60),
        "budget": budget_text(report),
        "state": "under way" if report.active else "ended",
        "baseline": baseline_text(report),
        "measured on": one_line("; ".join(report.machines) or NONE, 100),
        "valid / ideas": share,
        "best": f"{score_text(best)} {report.metric}, n = {n_best}" if best else NONE,
        "its gain": gain,
        "its verdict": verdict_text(best) if best else NONE,
        "luck's 95 % bound": bound,
        "confirmed": f"{confirmed} of {len(report.confirmations)} looks",
        "model calls": usd,
        "CPU-hours": cpu_hours,
        "elapsed": elapsed,
    }


def baseline_text(report: RunReport) -> str:
    """Mean, sd and n."""
    base = report.baseline
    return f"{base.mean:.4f}, sd {base.sd:.4f}, n = {base.n}" if base else NONE


def careful(reports: Sequence[RunReport]) -> str:
    """A warning where the runs' scores do not compare."""
    kinds = {(r.settings.get("env"), r.settings.get("preset"), r.metric) for r in reports}
    if len(kinds) > 1:
        return "careful: scores of different environments or presets do not compare"
    scored = {(e.machine, e.env_version, e.evaluator_version) for r in reports for e in r.evaluations}
    return (
        "careful: these scores are of several machines or versions and do not compare exactly"
        if len(scored) > 1
        else ""
    )


def epochs_table(reports: Sequence[RunReport]) -> Table:
    """The best so far at the end of each epoch."""
    rows = [{epoch.number: epoch for epoch in epochs_of(report)} for report in reports]
    numbers = sorted({number for row in rows for number in row})
    cells = [[score_text(row[number].best_so_far) if number in row else NONE for row in rows] for number in numbers]
    lines = tuple(Row((str(number), *row)) for number, row in zip(numbers, cells, strict=True))
    columns = frozenset(range(len(reports) + 1))
    return Table("Best so far", headings(reports, "epoch"), lines, numbers=columns)


def failures_table(reports: Sequence[RunReport]) -> Table:
    """How many ideas failed, by class."""
    rows = [{row.kind: row.count for row in failures_of(report)} for report in reports]
    kinds = sorted({kind for row in rows for kind in row})
    lines = tuple(Row((kind, *(str(row.get(kind, 0)) for row in rows))) for kind in kinds)
    return Table("Failures", headings(reports, "class"), lines, numbers=frozenset(range(1, len(reports) + 1)))
