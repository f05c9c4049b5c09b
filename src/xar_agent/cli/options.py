"""Options that several verbs share, and the settings that they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from xar_agent.config import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
DEBUG = click.option("--debug", is_flag=True, help="Log everything, and show a traceback when something breaks.")
RUNS_DIR = click.option("--runs-dir", metavar="DIR", help="Where runs are kept. [default: $XAR_RUNS, else ./runs]")

SEEDS = click.option("--seeds", type=int, metavar="N", help="Training runs, each with a seed of its own. [default: 1]")
FIRST_SEED = click.option(
    "--seed",
    "first_seed",
    type=click.IntRange(0, 2**31 - 1),
    default=1,
    show_default=True,
    metavar="S",
    help="Seed of the first training run; the next ones count up.",
)

SANDBOX = click.option(
    "--sandbox",
    type=click.Choice(["auto", "docker", "bubblewrap", "process"]),
    help="Where untrusted code runs. auto: docker if its engine and image are there, else bubblewrap. "
    "process does not isolate.",
)

DATA = click.option(
    "--data",
    metavar="PATH",
    help="Your own data for the environment: a file, a folder, or hub:OWNER/DATASET. [default: what it downloads]",
)

COMMON_TO_RUNS = (
    SANDBOX,
    DATA,
    click.option("--budget-usd", type=float, metavar="X", help="Stop before models cost more than X USD."),
    click.option("--budget-tokens", type=int, metavar="N", help="Stop before N input and output tokens are exceeded."),
    click.option("--budget-hours", type=float, metavar="H", help="Stop everything after H hours."),
    RUNS_DIR,
    click.option("--run", "run_name", metavar="NAME", help="Name of the run. [default: date and time]"),
    AS_JSON,
    DEBUG,
)


def common_to_runs(function: Function) -> Function:
    """The options of every verb that runs something."""
    for option in reversed(COMMON_TO_RUNS):
        function = option(function)
    return function


def common_to_readers(function: Function) -> Function:
    """The options of every verb that only reads runs."""
    return RUNS_DIR(AS_JSON(DEBUG(function)))


def settings_from(debug: bool = False, config: str | None = None, **flags: object) -> Settings:
    """The settings in force with these flags; exports the cache folder to every room.

    ``config`` names a file instead of xar.toml.

    Logging is set up only for ``debug`` here: importing it would double the start of a verb that only reads.

    Raises:
        ConfigError: a bad value; the message names the flag, variable or key.
    """
    from xar_agent.config import load_settings

    settings = load_settings(flags, file=Path(config) if config else None)
    os.environ["XAR_CACHE"] = str(settings.cache_dir)
    if debug:
        start_logging(debug=True)
    return settings


def start_logging(*, debug: bool) -> None:
    """Send log lines to stderr; every verb that runs something calls it first."""
    from xar_agent.log import configure_logging

    configure_logging(debug=debug)
