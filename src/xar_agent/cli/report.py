"""``xar-agent report``: what runs came to, as tables, as a plot, as one page, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import common_to_readers, settings_from

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from xar_agent.analysis.report import RunReport
    from xar_agent.analysis.report_cells import Row, Table

FOLDER = "report"
PLOT = "best_so_far"
SHOWN = 20
"""Candidates in a table on the terminal."""
UNBROKEN, MAX_UNBROKEN = 28, 8
"""Cells up to so many characters are not broken, in so many columns."""
TONES = {"good": "bold green", "dull": "yellow", "bad": "red"}


@click.command(name="report", short_help="Tables and a plot of runs, finished or under way.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--html", metavar="FILE", help="Also write everything as one HTML file that needs nothing else.")
@common_to_readers
def command(runs: tuple[str, ...], html: str | None, runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """Show what each RUN (a name, or its folder) came to: candidates, failures, spend, and what luck alone gives.

    Several runs are shown beside each other. The plot of the best score so far is written to RUN/report/.
    """
    from xar_agent.cli.terminal import print_json

    settings = settings_from(debug, runs_dir=runs_dir)
    reports = [read(settings.runs_dir, run) for run in runs]
    plots = [write_plots(report) for report in reports]
    page = write_page(Path(html), reports) if html is not None else None
    if as_json:
        print_json(as_object(reports, plots, page))
        return
    show(reports, plots, page)


def read(runs_dir: Path, run: str) -> RunReport:
    """The report of one run."""
    from xar_agent.analysis.report import read_report
    from xar_agent.cli.runs import open_run

    with open_run(runs_dir, run) as store:
        return read_report(store)


def write_plots(report: RunReport) -> dict[str, str]:
    """Paths of the plot by kind; none when nothing can be drawn yet, or where the run's folder is not writable."""
    from xar_agent.analysis.plots import draw_best_so_far
    from xar_agent.errors import StoreError
    from xar_agent.store import write_atomic

    written = {}
    try:
        for kind, content in draw_best_so_far(report).items():
            path = report.dir / FOLDER / f"{PLOT}.{kind}"
            write_atomic(path, content)
            written[kind] = str(path)
    except StoreError as error:
        click.echo(f"the plot was not written: {error.message}", err=True)
        return {}
    return written


def write_page(path: Path, reports: Sequence[RunReport]) -> Path:
    """Write the HTML file.

    Raises:
        StoreError: it cannot be written.
    """
    from xar_agent.analysis.report_page import render_page
    from xar_agent.store import write_atomic

    write_atomic(path, render_page(reports))
    return path.absolute()


def as_object(reports: Sequence[RunReport], plots: Sequence[Mapping[str, str]], page: Path | None) -> dict[str, Any]:
    """One object for one run; ``{"runs": [...]}`` for several."""
    from xar_agent.analysis.report_json import report_json

    found = [{**report_json(report), "plot": plot or None} for report, plot in zip(reports, plots, strict=True)]
    whole = found[0] if len(found) == 1 else {"runs": found}
    return {**whole, "html": str(page) if page else None}


def show(reports: Sequence[RunReport], plots: Sequence[Mapping[str, str]], page: Path | None) -> None:
    """Everything for a person."""
    from xar_agent.analysis.report_compare import compare_tables
    from xar_agent.analysis.report_tables import run_tables
    from xar_agent.cli.table import shown
    from xar_agent.cli.terminal import result_console, show_parts

    tables = run_tables(reports[0], limit=SHOWN) if len(reports) == 1 else compare_tables(reports)
    parts = [part for table in tables for part in rendered(table)]
    places = [f"plot:  {shown(Path(plot['png']))}" for plot in plots if plot]
    places += [f"page:  {shown(page)}"] if page else []
    show_parts(result_console(), *parts, *places, *next_commands(reports))


def rendered(table: Table) -> Iterator[RenderableType]:
    """Title, rows and note of one table, and a line between it and the next."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, pad_edge=False, header_style="dim", show_header=any(table.headings))
    for place, heading in enumerate(table.headings):
        right = place in table.numbers
        widest = max(len(cell) for cell in (heading, *(row.cells[place] for row in table.rows)))
        whole = widest <= UNBROKEN and place < MAX_UNBROKEN
        grid.add_column(Text(heading), justify="right" if right else "left", overflow="fold", no_wrap=whole)
    for row in table.rows:
        grid.add_row(*cells_of(table, row))
    yield Text(table.title, style="bold")
    yield grid
    if table.note:
        yield Text(table.note, style="dim")
    yield ""


def cells_of(table: Table, row: Row) -> Iterator[Text]:
    """The cells of one row, without anything that steers a terminal or is secret."""
    from rich.text import Text

    from xar_agent.analysis.text import printable
    from xar_agent.redact import redact

    for place, cell in enumerate(row.cells):
        yield Text(printable(redact(cell)), style=TONES.get(row.tone, "") if place == table.toned else "")


def next_commands(reports: Sequence[RunReport]) -> list[str]:
    """What a person may want to type next about the best candidate."""
    from xar_agent.cli.table import typed

    report, best = reports[0], reports[0].best
    if len(reports) != 1 or best is None:
        return []
    found = best.candidate.score
    patch = report.dir / "impl" / best.id / "patch.diff"
    lines = [f"best:  {typed(patch)}"] if patch.is_file() else []
    if found is not None and found.verdict == "better" and not best.confirmations and not report.active:
        folder = typed(report.dir)
        lines.append(f"next:  xar-agent confirm {folder if '/' in folder else f'./{folder}'}")
    return lines
