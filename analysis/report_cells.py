"""What the tables of a report are made of: rows of text, and how each kind of value is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xar_agent.analysis.report import Entry
from xar_agent.analysis.report_counts import Rate

NONE = "–"
TONES = {"better": "good", "within_noise": "dull", "worse": "bad", "invalid": "bad", "confirmed": "good"}
"""Verdict -> how its row is coloured."""
WORDS = {"within_noise": "within noise", "not_confirmed": "not confirmed", "none": "no verdict"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    cells: tuple[str, ...]
    tone: str = ""
    """``good``, ``dull``, ``bad`` or nothing; colours the table's toned column."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text. Cells may hold what a model wrote: whoever shows them escapes them."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    numbers: frozenset[int] = frozenset()
    """Columns that are set to the right."""
    toned: int | None = None
    """Column that the tone of a row colours."""


def listed(values: Sequence[object]) -> str:
    """``7``, ``1 to 20``, or ``3, 5, 9``."""
    whole = [value for value in values if isinstance(value, int)]
    if len(whole) == len(values) > 2 and whole == list(range(whole[0], whole[0] + len(whole))):
        return f"{whole[0]} to {whole[-1]}"
    return ", ".join(map(str, values)) or NONE


def verdict_text(entry: Entry) -> str:
    """The verdict, and what else there is to know about it."""
    found = entry.candidate.score
    words = [WORDS.get(found.verdict, found.verdict) if found else NONE]
    if entry.candidate.fidelity == "no_effect":
        words.append("no effect")
    if entry.confirmations:
        words.append("confirmed" if entry.confirmed else "not confirmed")
    return ", ".join(words)


def score_text(entry: Entry | None) -> str:
    """Mean and half of the interval's width."""
    found = entry.candidate.score if entry else None
    if found is None or found.mean is None:
        return NONE
    return f"{found.mean:.4f}" + (f" ± {found.hi - found.mean:.4f}" if found.hi is not None else "")


def cost_text(cost_usd: float | None) -> str:
    """``$0.12``, or that it is not known."""
    return "unknown" if cost_usd is None else f"${cost_usd:.2f}"


def interval_text(rate: Rate) -> str:
    """``31–83 %``."""
    lo, hi = rate.interval
    return f"{100 * lo:.0f}–{100 * hi:.0f} %" if rate.ideas else NONE


def p_text(p: float | None) -> str:
    """A p-value."""
    if p is None or not math.isfinite(p):
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
