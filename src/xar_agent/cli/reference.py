"""docs/cli.md from ``--help``: ``python -m xar_agent.cli.reference > docs/cli.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from xar_agent.cli.main import cli

WIDTH = 100
HEAD = """# The command line

Written from `--help` by `make docs`; a test fails when it lags.

Exit codes: 0 a full run finished and has a valid score (with `--no-submit`: the smoke test passed); 1 it was tried and
has none; 2 the input was wrong; 3 a needed service is missing; 130 interrupted. The result goes to stdout (one JSON
object with `--json`), progress and logs to stderr.
"""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Each command's path with its help text, parents first."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            assert child is not None
            yield from commands(child, child_name, context)


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    parts += [f"\n## {path}\n\n```text\n{text}\n```\n" for path, text in commands(cli, "xar-agent")]
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(reference())
