"""A report as one JSON object. No NaN or infinity: what is not a number is null."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from xar_agent.analysis.quarantine import flags_of, quarantined_json
from xar_agent.analysis.report import Bill, Entry, RunReport
from xar_agent.analysis.report_counts import Epoch, Rate, epochs_of, failures_of, luck_of, rate_of, rates_of
from xar_agent.envs.spec import Baseline
from xar_agent.jobs.types import Check, Evaluation

CARD = "card.json"
"""As jobs/card.py names it, which a reader of reports need not import."""


def report_json(report: RunReport) -> dict[str, Any]:
    """The object that ``report --json`` prints for one run."""
    found = {
        **what_was_run(report),
        "candidates": [entry_json(report, entry) for entry in report.entries],
        "best": entry_json(report, report.best) if report.best else None,
        "epochs": [epoch_json(epoch) for epoch in epochs_of(report)],
        "completion": {
            **rate_json(rate_of(report.entries)),
            "groups": [
                {"epoch": epoch, "origin": origin, **rate_json(rate)}
                for (epoch, origin), rate in rates_of(report).items()
            ],
        },
        "failures": {
            row.kind: {"count": row.count, "idea_id": row.latest.id, "reason": row.latest.reason.text}
            for row in failures_of(report)
            if row.latest.reason
        },
        "quarantined": [quarantined_json(one) for one in report.quarantined],
        "spend": spend_json(report),
        "luck": luck_json(report),
        "confirmations": [confirmation_json(look) for look in report.confirmations],
    }
    clean = finite(found)
    assert isinstance(clean, dict)
    return clean


def what_was_run(report: RunReport) -> dict[str, Any]:
    """Settings, versions and the baseline."""
    settings, evaluations = report.settings, report.evaluations
    return {
        "run": report.name,
        "run_dir": str(report.dir),
        "active": report.active,
        "created_at": report.record.get("created_at"),
        "verb": settings.get("verb"),
        "env": settings.get("env"),
        "preset": settings.get("preset"),
        "policy": settings.get("policy"),
        "model": settings.get("model"),
        "seeds": settings.get("seeds"),
        "budget": report.record.get("budget"),
        "settings": dict(settings),
        "versions": report.record.get("versions"),
        "env_versions": sorted({e.env_version for e in evaluations}),
        "evaluator_versions": sorted({e.evaluator_version for e in evaluations}),
        "machines": list(report.machines),
        "corpora": list(report.corpora),
        "metric": report.metric if evaluations else None,
        "direction": report.direction if evaluations else None,
        "baseline": baseline_json(report.baseline) if report.baseline else None,
    }


def baseline_json(baseline: Baseline) -> dict[str, Any]:
    """The baseline's distribution and where it was measured."""
    return {
        "mean": baseline.mean,
        "sd": baseline.sd,
        "n": baseline.n,
        "machine": baseline.machine,
        "shipped": baseline.shipped,
        "env_version": baseline.env_version,
        "evaluator_version": baseline.evaluator_version,
    }


def entry_json(report: RunReport, entry: Entry) -> dict[str, Any]:
    """One candidate."""
    one, found = entry.candidate, entry.candidate.score
    reason = entry.reason
    patch = report.dir / "impl" / one.idea.id / "patch.diff"
    if one.implementation is not None and one.implementation.patch_path:
        patch = report.dir / one.implementation.patch_path
    card = patch.with_name(CARD)
    return {
        "idea_id": one.idea.id,
        "text": one.idea.text,
        "epoch": one.idea.epoch,
        "origin": one.idea.origin,
        "parents": list(one.idea.parents),
        "state": "open" if entry.open else "repeat" if entry.same_as else one.state,
        "outcome": one.implementation.outcome if one.implementation else None,
        "failure": {"class": str(reason.kind) if reason.kind else None, "reason": reason.text} if reason else None,
        "same_as": entry.same_as or None,
        "score": {"mean": found.mean, "lo": found.lo, "hi": found.hi, "n": found.n} if found else None,
        "gain": entry.gain,
        "gain_sd": entry.gain_sd,
        "evaluations": [evaluation_json(evaluation) for evaluation in one.evaluations],
        "verdict": found.verdict if found else "none",
        "fidelity": one.fidelity,
        "confirmed": entry.confirmed if entry.confirmations else None,
        "flags": list(flags_of(one.evaluations)),
        "patch_path": str(patch) if patch.is_file() else None,
        "card_path": str(card) if card.is_file() else None,
        "cost_usd": one.cost_usd,
    }


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """One seed."""
    return {
        "metric": evaluation.metric,
        "value": evaluation.value,
        "direction": evaluation.direction,
        "valid": evaluation.valid,
        "reasons": list(evaluation.reasons),
        "seed": evaluation.seed,
        "compute_ratio": evaluation.compute_ratio,
        "machine": evaluation.machine,
        "corpus": evaluation.corpus or None,
        "checks": [check_json(check) for check in evaluation.checks],
        "flags": list(evaluation.flags),
    }


def check_json(check: Check) -> dict[str, Any]:
    """One check by name; the reason is null where it passed."""
    return {"name": check.name, "passed": check.passed, "reason": check.reason or None, "figure": check.figure}


def epoch_json(epoch: Epoch) -> dict[str, Any]:
    """One epoch."""
    return {
        "epoch": epoch.number,
        **rate_json(epoch.rate),
        "best": brief_json(epoch.best),
        "best_so_far": brief_json(epoch.best_so_far),
    }


def brief_json(entry: Entry | None) -> dict[str, Any] | None:
    """Which candidate, and its score."""
    if entry is None or entry.candidate.score is None:
        return None
    found = entry.candidate.score
    return {"idea_id": entry.id, "mean": found.mean, "lo": found.lo, "hi": found.hi, "n": found.n}


def rate_json(rate: Rate) -> dict[str, Any]:
    """A share with its 95 % interval."""
    lo, hi = rate.interval
    counts = {"valid": rate.valid, "ideas": rate.ideas, "open": rate.open, "repeats": rate.repeats}
    return {**counts, "rate": rate.share, "lo": lo, "hi": hi}


def spend_json(report: RunReport) -> dict[str, Any]:
    """In total, and for each valid idea."""
    bill, n = report.bill, len(report.valid)
    total = bill_json(bill)
    return {**total, "n_valid": n, "per_valid_idea": bill_json(shared_by(bill, n)) if n else None}


def bill_json(bill: Bill) -> dict[str, Any]:
    """One account. ``cost_usd`` is null when any price is unknown."""
    return {
        "cost_usd": None if bill.unpriced else bill.cost_usd,
        "known_usd": bill.cost_usd,
        "unknown_prices": bill.unpriced,
        "input_tokens": bill.input_tokens,
        "output_tokens": bill.output_tokens,
        "cpu_hours": bill.cpu_s / 3600,
        "job_wall_s": bill.job_wall_s,
        "wall_s": bill.elapsed_s,
    }


def shared_by(bill: Bill, n: int) -> Bill:
    """The n-th part of an account; how many prices are unknown stays."""
    return Bill(
        bill.cost_usd / n,
        bill.unpriced,
        round(bill.input_tokens / n),
        round(bill.output_tokens / n),
        bill.cpu_s / n,
        bill.job_wall_s / n,
        bill.elapsed_s / n,
    )


def luck_json(report: RunReport) -> dict[str, Any] | None:
    """What chance alone gives, beside the best that was found."""
    found = luck_of(report)
    if found is None:
        return None
    return {"n": found.n, "mean": found.mean, "bound": found.bound, "best_found": brief_json(report.best)}


def confirmation_json(look: Any) -> dict[str, Any]:
    """One look at the hidden split, its baseline in short."""
    row = {field.name: getattr(look, field.name) for field in dataclasses.fields(look)}
    return {**row, "baseline": baseline_json(look.baseline)}


def finite(value: Any) -> Any:
    """The same value with null for every number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value
