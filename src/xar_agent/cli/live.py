"""What a person sees on stderr while something runs: labelled lines, and one bar for what is under way."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from xar_agent.analysis.text import diff_style, duration, one_line, printable
from xar_agent.cli.terminal import LABEL_WIDTH, is_live

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

PLAIN_INTERVAL_S = 10.0
"""Between two progress lines where bars cannot be redrawn."""
TOOL_WIDTH = 11
MIN_STEP_COLUMNS, MAX_STEP_COLUMNS = 20, 70
REPEATED_BY_HEADLINE = ("diff --git ", "index ")
PATCH_LINES = 60
"""Longer patches are shown up to here; the file has them whole."""


@dataclass(slots=True)
class Bar:
    """One thing under way."""

    label: str
    task: TaskID | None = None
    printed_at: float = field(default=float("-inf"))
    printed: str = ""


class Live:
    """Progress for a person. Usable from any thread; with ``quiet`` it shows nothing."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self.progress: Progress | None = None
        self.bars: dict[str, Bar] = {}

    def line(self, label: str, text: str | Text, style: str = "") -> None:
        """One labelled line; long ones wrap under their own text."""
        from rich.table import Table
        from rich.text import Text

        if self.quiet:
            return
        body = Text(printable(text), style=style) if isinstance(text, str) else text
        if not self.console.is_terminal:
            self.console.print(Text(f"{label:<{LABEL_WIDTH}}") + body, soft_wrap=True)
            return
        row = Table.grid(padding=0)
        row.add_column(width=LABEL_WIDTH, no_wrap=True, style="dim")
        row.add_column(overflow="fold")
        row.add_row(label, body)
        self.console.print(row)

    def patch(self, diff: str, headline: str) -> None:
        """A diff in colour."""
        self.line("patch", headline)
        lines = [line for line in diff.splitlines() if not line.startswith(REPEATED_BY_HEADLINE)]
        for line in lines[:PATCH_LINES]:
            self.line("", line, diff_style(line))
        if len(lines) > PATCH_LINES:
            self.line("", f"… {len(lines) - PATCH_LINES} more lines in patch.diff", "dim")

    def advance(self, key: str, label: str, done: float, total: float | None, detail: str) -> None:
        """Show how far the thing called ``key`` is.

        Args:
            key: the same for all calls about one thing.
            label: short word at the left.
            done: in the unit of ``total``.
            total: None when it is not known.
            detail: a short text such as loss and time left.
        """
        if self.quiet:
            return
        bar = self.bars.setdefault(key, Bar(label))
        text = one_line(detail, 60)
        if is_live(self.console):
            self.redraw(bar, done, total, text)
            return
        share = f"{100 * done / total:3.0f} %  " if total else ""
        now = time.monotonic()
        if now - bar.printed_at >= PLAIN_INTERVAL_S and share + text != bar.printed:
            bar.printed_at, bar.printed = now, share + text
            self.line(label, share + text)

    def busy(self, key: str, label: str, text: str) -> None:
        """Show on a terminal that something is under way whose length is not known."""
        if is_live(self.console):
            self.advance(key, label, 0, None, text)

    def redraw(self, bar: Bar, done: float, total: float | None, text: str) -> None:
        """Move a bar on a terminal; the first one starts the display."""
        if self.progress is None:
            self.progress = new_progress(self.console)
            self.progress.start()
        if bar.task is None:
            bar.task = self.progress.add_task(f"{bar.label:<{LABEL_WIDTH}}", total=total, detail=text)
        self.progress.update(bar.task, completed=done, total=total, detail=text)

    def finish(self, key: str) -> None:
        """Take the bar away; the display ends with the last one."""
        bar = self.bars.pop(key, None)
        if self.progress is None:
            return
        if bar is not None and bar.task is not None:
            self.progress.remove_task(bar.task)
        if not self.bars:
            self.progress.stop()
            self.progress = None

    def close(self) -> None:
        """Leave the terminal as it was found."""
        for key in list(self.bars):
            self.finish(key)

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def new_progress(console: Console) -> Progress:
    """A bar that shrinks with the terminal and goes away when it is done."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", style="dim", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=console,
        transient=True,
        refresh_per_second=5,
    )


def step_text(tool: str, what: str, duration_s: float, *, width: int) -> str:
    """``edit_file    train.py: 1 line     0.2 s``: in columns where there is room for them."""
    took = duration(duration_s)
    room = width - LABEL_WIDTH - TOOL_WIDTH - len(took) - 4
    if room < MIN_STEP_COLUMNS:
        return one_line(f"{tool} {what} ({took})", 400)
    column = min(room, MAX_STEP_COLUMNS)
    return f"{one_line(tool, TOOL_WIDTH):<{TOOL_WIDTH}}  {one_line(what, column):<{column}}  {took}"
