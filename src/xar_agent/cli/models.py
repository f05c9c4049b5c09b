"""``xar-agent models``: the embedded model's file, and which model a command would use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from xar_agent.cli.options import AS_JSON, DEBUG, settings_from

if TYPE_CHECKING:
    from pathlib import Path

    from xar_agent.agent.local_files import LocalModelFile
    from xar_agent.cli.live import Live
    from xar_agent.config import Settings


@click.group(name="models")
def command() -> None:
    """Language models: which one is used, and the embedded one's file."""


@command.command(name="list")
@AS_JSON
@DEBUG
def list_(as_json: bool, debug: bool) -> None:
    """List the embedded models and say which model would be used."""
    from xar_agent.agent.local_files import KNOWN, find
    from xar_agent.analysis.text import size
    from xar_agent.cli.terminal import listing, print_json, result_console, show_parts

    in_use = model_in_use(settings_from(debug))
    places = {name: find(name) for name in KNOWN}
    if as_json:
        rows = [row_of(model, places[name]) for name, model in KNOWN.items()]
        print_json({"models": rows, "in_use": in_use})
        return
    table = listing("name", "size", "licence", "file")
    for name, model in KNOWN.items():
        place = places[name]
        table.add_row(name, size(model.n_bytes), model.licence, str(place) if place else "not downloaded")
    show_parts(result_console(), table, "", f"in use: {in_use['about']}")


def model_in_use(settings: Settings) -> dict[str, str | None]:
    """What a command without ``--model`` would use, or why it would not get that far."""
    from xar_agent.agent.choose import choose_model
    from xar_agent.cli.plan import about_model
    from xar_agent.errors import XarError

    try:
        chosen = choose_model(None, configured=settings.model, api_base=settings.api_base)
    except XarError as error:
        return {"name": None, "kind": None, "about": f"none: {error.message} ({error.hint})"}
    return {"name": chosen.name, "kind": chosen.kind, "about": about_model(chosen)}


@command.command()
@click.argument("name", required=False)
@AS_JSON
@DEBUG
def fetch(name: str | None, as_json: bool, debug: bool) -> None:
    """Download an embedded model, or go on with a download that was cut off."""
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.live import Live
    from xar_agent.cli.terminal import print_json, progress_console, result_console

    settings_from(debug)
    with Live(progress_console()) as live, interruptible():
        path = fetched(live, known_name(name))
    if as_json:
        print_json({"name": known_name(name), "path": str(path)})
        return
    result_console().print(str(path), soft_wrap=True)


@command.command()
@click.argument("name", required=False)
@AS_JSON
@DEBUG
def check(name: str | None, as_json: bool, debug: bool) -> None:
    """Check a model's file byte for byte against its known hash."""
    from xar_agent.agent.local_files import verified
    from xar_agent.cli.terminal import print_json, result_console

    settings_from(debug)
    path = verified(known_name(name))
    if as_json:
        print_json({"name": known_name(name), "path": str(path), "ok": True})
        return
    result_console().print(f"{path}: every byte as published", soft_wrap=True)


def known_name(name: str | None) -> str:
    """The name as the list has it; the default embedded model for None.

    Raises:
        UnknownName: there is no embedded model of that name.
    """
    from xar_agent.agent.local_files import DEFAULT, known_model

    return known_model(name or DEFAULT).name


def row_of(model: LocalModelFile, place: Path | None) -> dict[str, object]:
    """One row of ``models list --json``."""
    return {
        "name": model.name,
        "bytes": model.n_bytes,
        "sha256": model.sha256,
        "licence": model.licence,
        "path": str(place) if place else None,
    }


def fetched(live: Live, name: str) -> Path:
    """The model's file, downloaded if need be, with its size said before."""
    from xar_agent.agent.local_files import KNOWN, FetchProgress, fetch, find
    from xar_agent.analysis.text import size

    place = find(name)
    if place is not None:
        return place
    live.line("download", f"{name}: {size(KNOWN[name].n_bytes)}, once, into the cache ({KNOWN[name].licence})")

    def show(now: FetchProgress) -> None:
        live.advance("fetch", "download", now.done, now.total, f"{now.stage} {size(now.done)} from {now.source}")

    try:
        return fetch(name, show)
    finally:
        live.finish("fetch")
