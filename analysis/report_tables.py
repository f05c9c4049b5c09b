"""A report as tables of text, for a terminal and for a page alike. Every number comes with its n."""

from __future__ import annotations

import time
from collections.abc import Sequence

from xar_agent.analysis.report import Bill, Entry, RunReport
from xar_agent.analysis.report_cells import (
    NONE,
    TONES,
    WORDS,
    Row,
    Table,
    cost_text,
    interval_text,
    listed,
    p_text,
    score_text,
    verdict_text,
)
from xar_agent.analysis.report_checks import flag_table, quarantine_table
from xar_agent.analysis.report_counts import Rate, epochs_of, failures_of, is_beyond, luck_of, rate_of, rates_of
from xar_agent.analysis.report_json import shared_by
from xar_agent.analysis.text import duration, one_line

SHORT_TEXT, LONG_TEXT = 200, 4000
"""Characters of an idea or a reason on a terminal, and on a page."""


def facts_table(report: RunReport) -> Table:
    """What was run."""
    settings, evaluations = report.settings, report.evaluations
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(report.record.get("created_at") or 0)))
    seeds = settings.get("seeds")
    rows = [
        ("run", f"{report.name}, begun {begun}" + (", under way" if report.active else "")),
        ("environment", f"{settings.get('env')}/{settings.get('preset')}"),
        ("policy", policy_text(report)),
        ("model", str(settings.get("model") or "none")),
        ("data", ", ".join(report.corpora) or NONE),
        ("seeds", listed(seeds) if isinstance(seeds, list) else str(seeds or NONE)),
        ("budget", budget_text(report)),
        ("baseline", baseline_text(report)),
        ("versions", versions_text(report)),
    ]
    if len({(e.machine, e.env_version, e.evaluator_version) for e in evaluations}) > 1:
        rows.append(("careful", "these scores are of several machines or versions and do not compare exactly"))
    if len(report.machines):
        rows.append(("measured on", "; ".join(report.machines)))
    return Table("What was run", ("", ""), tuple(Row((label, one_line(text, 400))) for label, text in rows))


def policy_text(report: RunReport) -> str:
    """``evolve knobs, 2 epochs of 5 ideas, search seed 1``."""
    settings = report.settings
    named = " ".join(str(settings[key]) for key in ("verb", "policy") if settings.get(key)) or NONE
    if settings.get("verb") != "evolve":
        return named
    size = f", {settings.get('epochs')} epochs of {settings.get('ideas')} ideas"
    return named + size + (f", search seed {settings['search_seed']}" if "search_seed" in settings else "")


def budget_text(report: RunReport) -> str:
    """``3 usd, 2 hours``."""
    budget = report.record.get("budget")
    limits = budget.items() if isinstance(budget, dict) else ()
    told = [f"{value:g} {key.removeprefix('budget_')}" for key, value in limits if isinstance(value, int | float)]
    return ", ".join(told) or "no limit"


def baseline_text(report: RunReport) -> str:
    """Mean, sd, n and where it was measured."""
    baseline = report.baseline
    if baseline is None:
        return "none known yet"
    whose = "came with the environment, measured on" if baseline.shipped else "measured here:"
    better = "lower" if report.direction == "min" else "higher"
    figures = f"{baseline.mean:.4f} {report.metric}, sd {baseline.sd:.4f}, n = {baseline.n}"
    return f"{figures} ({better} is better; {whose} {baseline.machine})"


def versions_text(report: RunReport) -> str:
    """Of the environment, its evaluator and this program."""
    env = sorted({e.env_version for e in report.evaluations}) or [str(report.settings.get("env_version") or NONE)]
    evaluator = sorted({e.evaluator_version for e in report.evaluations}) or [
        str(report.settings.get("evaluator_version") or NONE)
    ]
    versions = report.record.get("versions")
    own = versions.get("xar_agent", NONE) if isinstance(versions, dict) else NONE
    return f"environment {'+'.join(env)}, evaluator {'+'.join(evaluator)}, xar-agent {own}"


def candidate_table(report: RunReport, limit: int | None = None, *, whole: bool = False) -> Table:
    """Candidates with a score of their own, best first; ``whole`` with parents and text in the same row."""
    shown = report.valid[:limit]
    rows = [candidate_row(place, entry, whole=whole) for place, entry in enumerate(shown, 1)]
    left = len(report.valid) - len(shown)
    headings = ("", "idea", "epoch", "n", f"{report.metric} ± 95 %", "gain in sd", "verdict", "cost")
    more = f"{left} more: --html or --json has all. " if left else ""
    note = f"{more}±: in 95 of 100 cases as many unchanged runs lie so close to the baseline. n: seeds"
    added = ("parents", "what was tried") if whole else ()
    return Table("Candidates", headings + added, tuple(rows), note, frozenset({0, 3, 4, 5, 7}), 6)


def candidate_row(place: int, entry: Entry, *, whole: bool) -> Row:
    """One candidate."""
    one, found = entry.candidate, entry.candidate.score
    gain = NONE if entry.gain_sd is None else f"{entry.gain_sd:+.1f}"
    epoch = f"{one.idea.epoch} {one.idea.origin}"
    seen = "dull" if entry.confirmations else TONES.get(found.verdict if found else "", "")
    tone = "good" if entry.confirmed else seen
    scored = (str(found.n if found else 0), score_text(entry), gain, verdict_text(entry), cost_text(one.cost_usd))
    added = (", ".join(one.idea.parents) or NONE, one_line(one.idea.text, LONG_TEXT)) if whole else ()
    return Row((str(place), entry.id, epoch, *scored, *added), tone)


def idea_table(entries: Sequence[Entry], title: str, *, width: int) -> Table:
    """What each candidate was to try, and whose child it is."""
    rows = [
        Row((entry.id, ", ".join(entry.candidate.idea.parents) or NONE, one_line(entry.candidate.idea.text, width)))
        for entry in entries
    ]
    return Table(title, ("idea", "parents", "what was tried"), tuple(rows))


def unscored_table(report: RunReport, limit: int | None, *, width: int) -> Table:
    """Ideas without a score of their own, and why."""
    rest = [entry for entry in report.entries if not entry.valid]
    rows = [
        Row(
            (e.id, f"{e.candidate.idea.epoch} {e.candidate.idea.origin}", *why_text(e, width)),
            "bad" if e.reason else "dull",
        )
        for e in rest[:limit]
    ]
    left = len(rest) - len(rows)
    note = f"{left} more: --html or --json has all" if left else ""
    return Table("Without a score", ("idea", "epoch", "class", "why; what was to be tried"), tuple(rows), note, toned=2)


def why_text(entry: Entry, width: int) -> tuple[str, str]:
    """Class, and reason with the idea."""
    text = one_line(entry.candidate.idea.text, width)
    if entry.open:
        return ("open", text)
    if entry.same_as:
        return ("repeat", f"the same code as {entry.same_as}; {text}")
    reason = entry.reason
    return (reason.name, f"{one_line(reason.text, width)}; {text}") if reason else (NONE, text)


def epoch_table(report: RunReport) -> Table:
    """Best so far per epoch."""
    headings = ("epoch", "valid / ideas", f"best {report.metric}", "n", "best so far", "n", "by idea")
    rows = []
    for epoch in epochs_of(report):
        ns = [str(e.candidate.score.n) if e and e.candidate.score else NONE for e in (epoch.best, epoch.best_so_far)]
        share = f"{epoch.rate.valid} / {epoch.rate.ideas}"
        by = epoch.best_so_far.id if epoch.best_so_far else NONE
        best = (score_text(epoch.best), ns[0], score_text(epoch.best_so_far), ns[1])
        rows.append(Row((str(epoch.number), share, *best, by)))
    return Table("Best so far", headings, tuple(rows), numbers=frozenset({0, 1, 2, 3, 4, 5}))


def completion_table(report: RunReport) -> Table:
    """Share of ideas that became a valid score."""
    groups = [(str(epoch), origin, rate) for (epoch, origin), rate in rates_of(report).items()]
    rows = [completion_row(*group) for group in [*groups, ("all", "", rate_of(report.entries))]]
    headings = ("epoch", "origin", "valid / ideas", "rate", "95 % interval", "open", "repeats")
    note = "ideas: those with a result; interval: Wilson; repeats had the same code as an earlier idea"
    return Table("Completion rate", headings, tuple(rows), note, frozenset({0, 2, 3, 4, 5, 6}))


def completion_row(epoch: str, origin: str, rate: Rate) -> Row:
    """One group."""
    share = NONE if rate.share is None else f"{rate.share:.0%}"
    return Row(
        (epoch, origin, f"{rate.valid} / {rate.ideas}", share, interval_text(rate), str(rate.open), str(rate.repeats))
    )


def failure_table(report: RunReport) -> Table:
    """Failures by class, with the latest reason."""
    rows = [
        Row(
            (
                row.kind,
                str(row.count),
                row.latest.id,
                one_line(row.latest.reason.text, 300) if row.latest.reason else "",
            ),
            "bad",
        )
        for row in failures_of(report)
    ]
    return Table("Failures", ("class", "ideas", "latest", "its reason"), tuple(rows), numbers=frozenset({1}), toned=0)


def spend_table(report: RunReport) -> Table:
    """What it cost, in total and for each valid idea."""
    bill, n = report.bill, len(report.valid)
    parts = [bill_cells(bill)] + ([bill_cells(shared_by(bill, n))] if n else [])
    labels = ("model calls", "tokens in", "tokens out", "CPU-hours of jobs", "hours of jobs", "elapsed")
    rows = [Row((label, *cells)) for label, *cells in zip(labels, *parts, strict=True)]
    headings = ("", "total", f"per valid idea (n = {n})")[: 1 + len(parts)]
    return Table("Spend", headings, tuple(rows), numbers=frozenset({1, 2}))


def bill_cells(bill: Bill) -> tuple[str, ...]:
    """One account, a cell a unit."""
    usd = f"${bill.cost_usd:.2f}" + (f" + {bill.unpriced} of unknown price" if bill.unpriced else "")
    hours = (f"{bill.cpu_s / 3600:.3f}", f"{bill.job_wall_s / 3600:.3f}")
    return (usd, f"{bill.input_tokens:,}", f"{bill.output_tokens:,}", *hours, duration(bill.elapsed_s))


def confirmation_table(report: RunReport) -> Table:
    """Looks at the hidden split."""
    headings = ("idea", "seeds", "hidden mean", "baseline (n)", "gain, 95 % interval", "p", "corrected", "verdict")
    rows = []
    for look in report.confirmations:
        gain = NONE if look.gain is None else f"{look.gain:+.4f}"
        if look.gain_lo is not None and look.gain_hi is not None:
            gain += f" [{look.gain_lo:+.4f}, {look.gain_hi:+.4f}]"
        mean = NONE if look.mean is None else f"{look.mean:.4f}"
        baseline = f"{look.baseline_mean:.4f} ({look.baseline_n})"
        verdict = WORDS.get(look.verdict, look.verdict)
        tone = TONES.get(look.verdict, "dull")
        ps = (p_text(look.p), p_text(look.p_corrected))
        rows.append(Row((look.idea_id, str(len(look.seeds)), mean, baseline, gain, *ps, verdict), tone))
    looks = report.confirmations[-1].looks if report.confirmations else 0
    note = f"fresh seeds on the hidden split; p one-sided, corrected for all {looks} looks of the run" if looks else ""
    return Table("Confirmations", headings, tuple(rows), note, frozenset({1, 2, 3, 4, 5, 6}), 7)


def luck_table(report: RunReport) -> Table:
    """What luck alone gives, beside the best found."""
    found, best = luck_of(report), report.best
    if found is None or best is None or best.mean is None:
        return Table("What luck alone gives", ("",), ())
    beyond = is_beyond(report, found)
    said = "beyond what luck gives" if beyond else "luck alone could have found it"
    runs = f"n = {found.n}, each a mean of {report.seeds} seed{'s' if report.seeds > 1 else ''}"
    rows = (
        Row(("expected best of null runs", f"{found.mean:.4f}", runs)),
        Row(("its 95 % bound", f"{found.bound:.4f}", "19 of 20 such searches do not pass it")),
        Row(("best found", f"{best.mean:.4f}", f"idea {best.id}: {said}"), "good" if beyond else "dull"),
    )
    note = "as if every candidate left the repository as it is; scores taken as normal with the baseline's mean and sd"
    return Table("What luck alone gives", ("", report.metric, ""), rows, note, frozenset({1}), 2)


def run_tables(report: RunReport, limit: int | None = None, *, whole: bool = False) -> tuple[Table, ...]:
    """All tables of one run that have rows; ``whole`` with long texts, for a page."""
    width = LONG_TEXT if whole else SHORT_TEXT
    ideas = idea_table(report.valid[:limit], "Ideas", width=width)
    found = (
        facts_table(report),
        candidate_table(report, limit, whole=whole),
        *(() if whole else (ideas,)),
        luck_table(report),
        confirmation_table(report),
        quarantine_table(report, limit, width=width),
        flag_table(report, limit),
        unscored_table(report, limit, width=width),
        epoch_table(report),
        completion_table(report),
        failure_table(report),
        spend_table(report),
    )
    return tuple(table for table in found if table.rows)
