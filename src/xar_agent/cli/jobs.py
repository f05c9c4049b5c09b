"""``xar-agent jobs``: the training runs of a run."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import common_to_readers, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xar_agent.config import Settings
    from xar_agent.jobs.runs import RunStore
    from xar_agent.jobs.types import Job

RUN = click.option("--run", "run_name", metavar="RUN", help="Name or folder of the run. [default: all runs]")
LOG_FILE = "stdout.log"
TAIL_LINES = 100


@click.group(name="jobs")
def command() -> None:
    """Training jobs: states, logs, cancelling."""


@command.command(name="list")
@RUN
@common_to_readers
def list_(run_name: str | None, runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """List the jobs of one run, or of all."""
    from xar_agent.cli.terminal import listing, print_json, result_console, show_parts
    from xar_agent.population.archive import read_jobs

    settings = settings_from(debug, runs_dir=runs_dir)
    rows: list[tuple[str, Job]] = []
    for store in runs_of(settings, run_name):
        with store:
            rows.extend((store.name, job) for job in read_jobs(store))
    if as_json:
        print_json({"jobs": [job_json(run, job) for run, job in rows]})
        return
    table = listing("job", "environment", "seed", "state", "value", "run")
    for run, job in rows:
        value = job.evaluation.value if job.evaluation else None
        where = environment_text(job)
        table.add_row(job.id, where, str(job.spec.seed), str(job.state), "–" if value is None else f"{value:.4f}", run)
    if rows:
        show_parts(result_console(), table)
    else:
        click.echo("no jobs yet", err=True)


@command.command()
@click.argument("job_id", metavar="JOB")
@RUN
@common_to_readers
def show(job_id: str, run_name: str | None, runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """Show one job: state, result, checks, or why it failed."""
    from xar_agent.cli.terminal import facts_grid, print_json, result_console, show_parts

    settings = settings_from(debug, runs_dir=runs_dir)
    with find_job(settings, run_name, job_id) as (store, job):
        if as_json:
            print_json(job_json(store.name, job) | {"job_dir": str(store.job_dir(job.id))})
            return
        show_parts(result_console(), facts_grid(facts_of(store, job)))


@command.command()
@click.argument("job_id", metavar="JOB")
@click.option("--all", "whole", is_flag=True, help=f"The whole log, not only its last {TAIL_LINES} lines.")
@RUN
@common_to_readers
def logs(job_id: str, whole: bool, run_name: str | None, runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """Print what a job's training wrote, made safe for a terminal."""
    from xar_agent.analysis.text import printable
    from xar_agent.cli.terminal import print_json
    from xar_agent.errors import UnknownName

    settings = settings_from(debug, runs_dir=runs_dir)
    with find_job(settings, run_name, job_id) as (store, job):
        path = store.job_dir(job.id) / LOG_FILE
        if not path.is_file():
            raise UnknownName(f"job {job.id} has no log", f"it is {job.state}; its files would lie in {path.parent}")
        lines = printable(path.read_text(encoding="utf-8", errors="replace")).splitlines()
        kept = lines if whole else lines[-TAIL_LINES:]
        if as_json:
            print_json({"job": job.id, "path": str(path), "lines": kept})
            return
        if len(kept) < len(lines):
            click.echo(f"[… {len(lines) - len(kept)} lines before these; --all shows them]", err=True)
        click.echo("\n".join(kept))


@command.command()
@click.argument("job_id", metavar="JOB")
@RUN
@common_to_readers
def cancel(job_id: str, run_name: str | None, runs_dir: str | None, as_json: bool, debug: bool) -> None:
    """Ask the process that runs a job to cancel it."""
    from xar_agent.cli.terminal import print_json
    from xar_agent.errors import UserError
    from xar_agent.jobs.runs import request_cancel

    settings = settings_from(debug, runs_dir=runs_dir)
    with find_job(settings, run_name, job_id) as (store, job):
        if job.state.ended:
            raise UserError(f"job {job.id} has ended: {job.state}", f"see: xar-agent jobs show {job.id}")
        request_cancel(store.dir, job.id)
        if as_json:
            print_json({"job": job.id, "state": str(job.state), "requested": True})
            return
        click.echo(f"asked for the end of job {job.id}; it is gone in a few seconds")


def runs_of(settings: Settings, run_name: str | None) -> Iterator[RunStore]:
    """The named run, or all of them, each open for reading."""
    from xar_agent.cli.runs import open_run
    from xar_agent.jobs.runs import list_runs

    if run_name is not None:
        yield open_run(settings.runs_dir, run_name)
        return
    for summary in list_runs(settings.runs_dir):
        yield open_run(settings.runs_dir, str(summary.dir))


@contextmanager
def find_job(settings: Settings, run_name: str | None, job_id: str) -> Iterator[tuple[RunStore, Job]]:
    """The job of that id, or of the only one that begins so, with its run open for reading.

    Raises:
        UnknownName: there is none, or several begin so.
    """
    from xar_agent.errors import UnknownName
    from xar_agent.population.archive import read_jobs

    found: list[tuple[RunStore, Job]] = []
    with ExitStack() as stack:
        for store in runs_of(settings, run_name):
            stack.enter_context(store)
            found.extend((store, job) for job in read_jobs(store) if job.id.startswith(job_id))
        exact = [(store, job) for store, job in found if job.id == job_id] or found
        if len(exact) != 1:
            where = f"run {run_name}" if run_name else str(settings.runs_dir)
            problem = f"{len(exact)} jobs begin with {job_id!r}" if exact else f"no job {job_id!r} in {where}"
            raise UnknownName(problem, "see: xar-agent jobs list")
        yield exact[0]


def job_json(run: str, job: Job) -> dict[str, Any]:
    """One job for a program."""
    failure, evaluation = job.failure, job.evaluation
    return {
        "id": job.id,
        "run": run,
        "idea_id": job.spec.idea_id,
        "env": job.spec.env,
        "preset": job.spec.preset,
        "seed": job.spec.seed,
        "split": job.spec.split,
        "state": str(job.state),
        "attempt": job.attempt,
        "failure": {"class": str(failure.kind), "reason": failure.reason} if failure else None,
        "evaluation": dataclasses.asdict(evaluation) if evaluation else None,
    }


def environment_text(job: Job) -> str:
    """Where it trains; a value on the hidden split is not to be compared with the others, so it says so."""
    where = f"{job.spec.env}/{job.spec.preset}"
    return where if job.spec.split == "val" else f"{where} ({job.spec.split})"


def facts_of(store: RunStore, job: Job) -> list[tuple[str, str]]:
    """Label and text of what a person wants to know about a job."""
    from xar_agent.analysis.text import duration
    from xar_agent.cli.table import shown

    rows = [("job", job.id), ("run", store.name), ("environment", environment_text(job))]
    rows += [("seed", str(job.spec.seed)), ("state", f"{job.state} (attempt {job.attempt})")]
    if job.failure is not None:
        place = f" at {job.failure.file}:{job.failure.line}" if job.failure.file else ""
        rows.append(("failure", f"{job.failure.kind}: {job.failure.reason}{place}"))
    if job.evaluation is not None:
        evaluation = job.evaluation
        value = "none" if evaluation.value is None else f"{evaluation.value:.4f}"
        rows.append((evaluation.metric, f"{value} ({'valid' if evaluation.valid else 'not valid'})"))
        took = f"{duration(evaluation.train_wall_s)}, {duration(evaluation.train_cpu_s)} of CPU time"
        rows.append(("training", f"{evaluation.tokens:,} tokens, {took}" if evaluation.tokens else took))
        rows.append(("compute", f"{evaluation.compute_ratio:.2f} x the baseline's"))
        rows += [("data", evaluation.corpus)] if evaluation.corpus else []
        rows.append(("machine", evaluation.machine))
        for check in evaluation.checks:
            rows.append((f"check {check.name}", "passed" if check.passed else f"FAILED: {check.reason}"))
        rows += [("look at", flag) for flag in evaluation.flags]
    return [*rows, ("files", shown(store.job_dir(job.id)))]
