"""``xar-agent envs init``: a small environment that works, to be replaced piece by piece."""

from __future__ import annotations

import re
from pathlib import Path

import click

from xar_agent.cli.options import DEBUG, settings_from

TEMPLATE = "templates/folder"
PLACEHOLDER = "scaffold"
"""The template's own name, in the files that name it."""
NAMED_IN = ("env.toml", "README.md")
NAME = re.compile(r"[a-z][a-z0-9_-]*")


@click.command(short_help="Write a small environment that works, to start from.")
@click.argument("name")
@click.option("--dir", "parent", metavar="DIR", default=".", show_default=True, help="Where its folder is made.")
@DEBUG
def init(name: str, parent: str, debug: bool) -> None:
    """Write a small environment that works, to be replaced piece by piece; `envs check` says whether it holds."""
    settings_from(debug)
    folder = write_scaffold(name, Path(parent))
    shown = str(folder) if folder.is_absolute() else f"./{folder}"
    click.echo(f"{shown} holds a complete environment. Next:")
    click.echo(f"1. xar-agent envs check {shown}")
    click.echo(
        f"2. replace its data, program and score by yours, in the order that {shown}/README.md says; check again"
    )
    click.echo(f'3. xar-agent envs calibrate {shown}; then xar-agent implement "IDEA" --env {shown}')


def write_scaffold(name: str, parent: Path) -> Path:
    """A new folder with the template under another name.

    Raises:
        ConfigError: the name cannot be an environment's.
        UserError: something is there already, or the folder cannot be written.
    """
    import shutil

    import xar_agent.envs
    from xar_agent.errors import ConfigError, UserError

    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be an environment's name", "lower-case letters, digits, - and _")
    template = Path(xar_agent.envs.__file__).parent / TEMPLATE
    folder = parent / name
    if folder.exists():
        raise UserError(f"{folder} is there already", "choose another name or --dir; nothing was changed")
    try:
        shutil.copytree(template, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in NAMED_IN:
            path = folder / file
            path.write_text(path.read_text(encoding="utf-8").replace(PLACEHOLDER, name), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return folder
