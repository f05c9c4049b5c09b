"""What checks say about a run's results, as tables: those that failed one, and those that a person should look at."""

from __future__ import annotations

from xar_agent.analysis.quarantine import flags_of
from xar_agent.analysis.report import RunReport
from xar_agent.analysis.report_cells import NONE, Row, Table
from xar_agent.analysis.text import one_line


def quarantine_table(report: RunReport, limit: int | None, *, width: int) -> Table:
    """Results that failed a check."""
    rest = report.quarantined
    rows = [
        Row(
            (
                one.idea_id,
                str(one.seed),
                NONE if one.value is None else f"{one.value:.4f}",
                one.check or NONE,
                one_line(one.reason, width),
            ),
            "bad",
        )
        for one in rest[:limit]
    ]
    left = len(rest) - len(rows)
    more = f"{left} more: --html or --json has all. " if left else ""
    headings = ("idea", "seed", report.metric, "failed check", "reason")
    note = f"{more}a result that failed a check keeps its value and counts nowhere"
    return Table("Quarantine", headings, tuple(rows), note, frozenset({1, 2}), 3)


def flag_table(report: RunReport, limit: int | None) -> Table:
    """What a person should look at; it changes no score."""
    found = [(entry.id, flag) for entry in report.entries for flag in flags_of(entry.candidate.evaluations)]
    rows = [Row((idea_id, flag.partition(":")[0], flag.partition(": ")[2]), "dull") for idea_id, flag in found[:limit]]
    note = "for a person: these change neither score nor verdict"
    return Table("Worth a look", ("idea", "what", "why"), tuple(rows), note, toned=1)
