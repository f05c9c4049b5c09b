"""A report as one HTML file that needs nothing else: no scripts, no requests, every text of a candidate escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xar_agent.analysis.plots import COLOURS, draw_best_so_far
from xar_agent.analysis.report import RunReport
from xar_agent.analysis.report_cells import Table
from xar_agent.analysis.report_compare import compare_tables
from xar_agent.analysis.report_tables import run_tables
from xar_agent.analysis.text import printable
from xar_agent.redact import redact

TEMPLATE = Path(__file__).with_name("report_page.html")
LONG = 30
"""Tables with more rows are folded."""
IDENTIFIER = re.compile(r'(\bid="|url\(#|href="#)')


@dataclass(frozen=True, slots=True)
class Section:
    """One run on the page."""

    name: str
    plot: str
    """SVG to be put inline; empty when there is nothing to draw."""
    tables: tuple[Table, ...]


def render_page(reports: Sequence[RunReport]) -> str:
    """The page, without secrets."""
    import jinja2

    sections = [
        Section(printable(report.name), inline_plot(report, place), run_tables(report, whole=True))
        for place, report in enumerate(reports)
    ]
    compared = compare_tables(reports) if len(reports) > 1 else ()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["printable"] = printable
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    title = ", ".join(section.name for section in sections)
    return redact(template.render(title=title, compared=compared, sections=sections, long=LONG))


def inline_plot(report: RunReport, place: int) -> str:
    """The plot as an SVG element whose colours the page sets, with identifiers that no other plot has."""
    drawn = draw_best_so_far(report, ["svg"])
    if not drawn:
        return ""
    svg = drawn["svg"].decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<style\b.*?</style>", "", svg, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return IDENTIFIER.sub(rf"\g<1>run{place}-", svg)
