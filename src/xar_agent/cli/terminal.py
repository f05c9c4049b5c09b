"""The two streams: the result on stdout, everything else on stderr; colours only where somebody looks."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xar_agent.analysis.text import printable
from xar_agent.errors import Interrupted, XarError
from xar_agent.redact import redact, redact_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

PLAIN_WIDTH = 120
"""Columns when the output goes to a file or a pipe, where nothing says how wide it may be."""
LABEL_WIDTH = 10


def result_console() -> Console:
    """For the result. Rich honours NO_COLOR, TERM=dumb and COLUMNS."""
    return new_console(stderr=False)


def progress_console() -> Console:
    """For progress, hints and logs."""
    return new_console(stderr=True)


def new_console(*, stderr: bool) -> Console:
    """A console that never guesses at markup in text which a model or a user wrote."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)


def is_live(console: Console) -> bool:
    """The console can redraw lines: a terminal that is not dumb."""
    return console.is_terminal and not console.is_dumb_terminal


def print_json(value: object) -> None:
    """The result for a program: one JSON object, without secrets, on stdout."""
    print(json.dumps(redact_json(value), ensure_ascii=False, allow_nan=False), flush=True)


def show_traceback(error: Exception) -> None:
    """Where it happened, on stderr, without the secrets that lines of code or messages may hold."""
    print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="")


def one_line(text: str) -> str:
    """The text on one line, without secrets and without bytes that steer a terminal."""
    flat = " ".join(redact(text).split())
    return "".join(char for char in flat if char.isprintable())


def error_line(error: XarError) -> str:
    """What went wrong and what to do about it, on one line."""
    line = "; ".join(part for part in (one_line(error.message), one_line(error.hint)) if part)
    return line if error.exit_code == Interrupted.exit_code else f"error: {line}"


def tell_error(error: XarError, *, debug: bool) -> None:
    """The error's line on stderr; with ``debug`` also where it comes from."""
    if debug and error.__cause__ is not None:
        show_traceback(error)
    print(error_line(error), file=sys.stderr)


def facts_grid(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """A label and a value a line; long values wrap under themselves, and none of them can steer the terminal."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value if isinstance(value, Text) else Text(printable(value)))
    return grid


def listing(*headings: str) -> Table:
    """A table without lines: one row an item, only the last column wraps."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings[:-1]:
        table.add_column(heading, no_wrap=True)
    table.add_column(headings[-1], overflow="fold")
    return table


@contextmanager
def trimmed(console: Console) -> Iterator[None]:
    """What is printed meanwhile comes out at the end; in a file or a pipe without the blanks that fill columns."""
    with console.capture() as captured:
        yield
    lines = captured.get().splitlines()
    console.file.write("".join(f"{line if console.is_terminal else line.rstrip()}\n" for line in lines))
    console.file.flush()


def show_parts(console: Console, *parts: RenderableType) -> None:
    """Print parts under each other."""
    with trimmed(console):
        console.print(*parts, sep="\n")
