"""``xar-agent runs``: what was run here, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import common_to_readers, settings_from

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xar_agent.jobs.records import RunSummary
    from xar_agent.jobs.runs import RunStore
    from xar_agent.population.archive import Candidate

LOOK_WORDS = {"confirmed": "confirmed", "not_confirmed": "not confirmed", "invalid": "invalid on the hidden split"}
"""Verdict of a look -> what a list says."""


@click.group(name="runs")
def command() -> None:
    """Recorded runs."""


@command.command(name="list")
@common_to_readers
def list_(runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """List the runs, newest first."""
    from xar_agent.cli.table import shown
    from xar_agent.cli.terminal import print_json, result_console, show_parts
    from xar_agent.jobs.runs import list_runs

    settings = settings_from(debug, runs_dir=runs_dir)
    runs = list_runs(settings.runs_dir)
    if as_json:
        print_json({"runs": [summary_json(run) for run in runs]})
        return
    if not runs:
        click.echo(f"no runs in {shown(settings.runs_dir)} yet; begin with: xar-agent implement IDEA", err=True)
        return
    show_parts(result_console(), table_of(runs))


@command.command()
@click.argument("run")
@common_to_readers
def show(run: str, runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """Show one run (a name, or its folder): its ideas, best first, and what to type next."""
    from xar_agent.analysis.quarantine import quarantined, quarantined_json
    from xar_agent.cli.terminal import print_json, result_console, show_parts
    from xar_agent.population.archive import candidate_json, read_candidates

    settings = settings_from(debug, runs_dir=runs_dir)
    with open_run(settings.runs_dir, run) as store:
        candidates = read_candidates(store)
        if as_json:
            rows = [candidate_json(candidate, store.dir) for candidate in candidates]
            refused = [quarantined_json(one) for one in quarantined(candidates)]
            found = {"run": store.name, "run_dir": str(store.dir), **store.record}
            print_json({**found, "candidates": rows, "quarantined": refused})
            return
        show_parts(result_console(), *page_of(store, candidates))


@command.command()
@click.argument("run")
@common_to_readers
def path(run: str, runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """Print where a run lies."""
    from xar_agent.cli.terminal import print_json

    settings = settings_from(debug, runs_dir=runs_dir)
    with open_run(settings.runs_dir, run) as store:
        if as_json:
            print_json({"run": store.name, "run_dir": str(store.dir)})
            return
        click.echo(str(store.dir))


def open_run(runs_dir: Path, run: str) -> RunStore:
    """A run for reading, by name or by folder.

    Raises:
        UnknownName: there is none; the hint names those that exist.
    """
    from xar_agent.jobs.runs import RunStore

    if "/" in run:
        return RunStore.open(Path(run), read_only=True)
    return RunStore.open(runs_dir, run, read_only=True)


def summary_json(run: RunSummary) -> dict[str, Any]:
    """One row of ``runs list --json``."""
    return {
        "run": run.name,
        "run_dir": str(run.dir),
        "created_at": run.created_at,
        "env": run.env,
        "preset": run.preset,
        "model": run.model or None,
        "ideas": run.ideas,
        "jobs": seen_jobs(run),
        "valid": run.valid,
        "active": run.active,
    }


def seen_jobs(run: RunSummary) -> dict[str, int]:
    """Number of jobs by state; those that were under way when their command was killed are lost."""
    from xar_agent.jobs.types import JobState

    counts: dict[str, int] = {}
    for state, count in run.jobs.items():
        seen = state if run.active or JobState(state).ended else str(JobState.LOST)
        counts[seen] = counts.get(seen, 0) + count
    return counts


def table_of(runs: tuple[RunSummary, ...]) -> RenderableType:
    """One line a run."""
    from xar_agent.cli.terminal import listing

    table = listing("run", "begun", "environment", "ideas", "valid scores", "jobs")
    for run in runs:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created_at))
        jobs = ", ".join(f"{count} {state}" for state, count in seen_jobs(run).items())
        where = f"{run.env}/{run.preset}"
        table.add_row(
            run.name, begun, where, str(run.ideas), str(run.valid), jobs + (" (running)" if run.active else "")
        )
    return table


def page_of(store: RunStore, candidates: tuple[Candidate, ...]) -> list[RenderableType]:
    """What was run, its ideas, and the commands that go on from here."""
    from xar_agent.analysis.quarantine import corpora_of
    from xar_agent.cli.table import shown
    from xar_agent.cli.terminal import facts_grid

    settings = store.record.get("settings") or {}
    rows = [
        ("run", shown(store.dir)),
        ("environment", f"{settings.get('env')}/{settings.get('preset')}"),
        ("model", str(settings.get("model") or "none")),
        ("sandbox", " ".join(str(settings[key]) for key in ("sandbox", "image") if settings.get(key))),
    ]
    if data := corpora_of(evaluation for one in candidates for evaluation in one.evaluations):
        rows.insert(2, ("data", ", ".join(data)))
    page: list[RenderableType] = [facts_grid(rows), "", candidates_table(candidates, looked_at(store))]
    page += checks_page(candidates)
    commands = next_commands(store, candidates)
    return [*page, "", *commands] if commands else page


def checks_page(candidates: tuple[Candidate, ...]) -> list[RenderableType]:
    """Results that failed a check, and what a person should look at; nothing where there are neither."""
    from rich.text import Text

    from xar_agent.analysis.quarantine import flags_of, quarantined
    from xar_agent.analysis.text import one_line
    from xar_agent.cli.terminal import listing

    page: list[RenderableType] = []
    if refused := quarantined(candidates):
        table = listing("quarantined", "seed", "value", "failed check", "reason")
        for bad in refused:
            value = "–" if bad.value is None else f"{bad.value:.4f}"
            table.add_row(
                bad.idea_id, str(bad.seed), value, Text(bad.check or "–"), Text(one_line(bad.reason, 300), "red")
            )
        page += ["", table]
    flags = [(one.idea.id, flag) for one in candidates for flag in flags_of(one.evaluations)]
    if flags:
        table = listing("worth a look", "why")
        for idea_id, flag in flags:
            table.add_row(idea_id, Text(one_line(flag, 300), "yellow"))
        page += ["", table]
    return page


def looked_at(store: RunStore) -> dict[str, str]:
    """Idea id -> what its latest look at the hidden split came to, in words."""
    from xar_agent.jobs.confirm import read_confirmations
    from xar_agent.jobs.lock import is_active
    from xar_agent.jobs.looks import read_looks

    open_look = "being confirmed" if is_active(store.dir) else "confirm was cut off"
    verdicts = {found.number: found.verdict for found in read_confirmations(store.dir)}
    return {look.idea_id: LOOK_WORDS.get(verdicts.get(look.number, ""), open_look) for look in read_looks(store.dir)}


def candidates_table(candidates: tuple[Candidate, ...], looks: Mapping[str, str]) -> RenderableType:
    """One line an idea, best first, with what a look at the hidden split came to."""
    from rich.text import Text

    from xar_agent.analysis.text import one_line
    from xar_agent.cli.table import VERDICT_STYLES
    from xar_agent.cli.terminal import listing

    table = listing("idea", "score", "against baseline", "seeds", "result", "what was tried")
    for one in candidates:
        found = one.score
        mean = f"{found.mean:.4f}" if found and found.mean is not None else "–"
        delta = f"{found.delta:+.4f}" if found and found.delta is not None else "–"
        tried = Text(one_line(one.idea.text, 200))
        if one.failure:
            tried.append(f"\n{one_line(one.failure, 200)}", style="red")
        look = looks.get(one.idea.id, "")
        searched = "" if look and one.implementation is None and not one.jobs else one.state
        state = Text(", ".join(filter(None, (searched, look))), style=VERDICT_STYLES.get(one.state, ""))
        table.add_row(one.idea.id, mean, delta, str(found.n if found else 0), state, tried)
    return table


def next_commands(store: RunStore, candidates: tuple[Candidate, ...]) -> list[str]:
    """What a person may want to do with the best idea, or with the one that failed."""
    from xar_agent.cli.table import typed

    if not candidates:
        return []
    best = candidates[0]
    commands = []
    if best.implementation is not None:
        folder = (store.dir / best.implementation.trajectory_path).parent
        patch = store.dir / best.implementation.patch_path
        commands.append(f"replay it:      xar-agent replay {typed(folder)}")
        if patch.is_file() and patch.stat().st_size > 0:
            commands.append(f"measure again:  xar-agent evaluate {typed(patch)} --env {best.idea.env} --seeds 3")
    if best.jobs:
        commands.append(f"read its log:   xar-agent jobs logs {best.jobs[-1].id} --run {typed(store.dir)}")
    return commands
