"""``xar-agent confirm``: fresh seeds and the hidden split, for what the search or a person believes to be better."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import common_to_runs, settings_from, start_logging

if TYPE_CHECKING:
    from xar_agent.cli.confirmations import Confirmed
    from xar_agent.cli.live import Live
    from xar_agent.config import Settings
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.runs import RunStore
    from xar_agent.population.winners import Chosen
    from xar_agent.sandbox.protocol import Patch

ID_DIGITS = 10


@click.command(name="confirm", short_help="Re-measure winners: fresh seeds, hidden split.")
@click.argument("target", metavar="RUN|PATCH")
@click.option("--seeds", type=int, metavar="N", help="Fresh seeds for each candidate, 3 at least. [default: 5]")
@click.option("--idea", "idea_id", metavar="ID", help="Candidate of the RUN. [default: the best one]")
@click.option("--top", type=click.IntRange(1, 1000), metavar="K", help="Look at the K best of the RUN. [default: 1]")
@click.option("--env", metavar="NAME", help="Environment that the PATCH belongs to.")
@click.option("--preset", metavar="P", help="Size of the environment, for a PATCH. [default: its first]")
@click.option("--parallel", type=click.IntRange(1, 64), default=1, metavar="K", help="Training runs at a time.")
@common_to_runs
def command(
    target: str, seeds: int | None, parallel: int, run_name: str | None, as_json: bool, debug: bool, **flags: Any
) -> int:
    """Train winners of a RUN, or a diff of your own, at fresh seeds and score them on the hidden split.

    Each look counts: the p-value is multiplied by the number of looks that the run has had.
    """
    from xar_agent.cli.confirmations import print_confirmed
    from xar_agent.cli.live import Live
    from xar_agent.cli.terminal import progress_console
    from xar_agent.jobs.confirm import DEFAULT_SEEDS
    from xar_agent.jobs.looks import check_seeds

    start_logging(debug=debug)
    asked = Asked(target, seeds, flags.pop("idea_id"), flags.pop("top"), parallel, run_name)
    settings = settings_from(debug, **flags)
    check_seeds(DEFAULT_SEEDS if seeds is None else seeds)
    with Live(progress_console()) as live:
        if asked.is_patch:
            found = confirm_given(live, settings, asked, named_env=flags["env"])
        else:
            found = confirm_run(live, settings, asked, env=flags["env"], preset=flags["preset"])
    print_confirmed(found, as_json=as_json, debug=debug)
    return 0 if found.measured else 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants confirmed."""

    target: str
    seeds: int | None
    idea_id: str | None
    top: int | None
    parallel: int
    run_name: str | None

    @property
    def is_patch(self) -> bool:
        """The target is a diff: a file, or stdin."""
        return self.target == "-" or Path(self.target).is_file()


@dataclass(frozen=True, slots=True)
class Subject:
    """One candidate on its way."""

    idea_id: str
    text: str
    patch: Patch
    tree: str
    patch_path: Path | None


def confirm_given(live: Live, settings: Settings, asked: Asked, *, named_env: str | None) -> Confirmed:
    """A person's own diff, in a run of its own."""
    from xar_agent.cli.events import show_patch
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.plan import make_plan
    from xar_agent.cli.prepare import open_run, prepared_bench
    from xar_agent.errors import UserError
    from xar_agent.jobs.fidelity import same_program

    if asked.idea_id or asked.top:
        raise UserError("--idea and --top choose among the candidates of a RUN; this is a PATCH")
    if named_env is None:
        raise UserError("a PATCH needs --env", "name its environment; see: xar-agent envs list")
    plan = make_plan(
        settings, idea=None, patch=asked.target, first_seed=1, submit=True, run_name=asked.run_name, verb="confirm"
    )
    if whose := run_around(Path(asked.target)):
        hint = f"xar-agent confirm {whose.name} would count this look among that run's"
        live.line("warning", f"this patch belongs to run {whose.name}: {hint}", "yellow")
    with interruptible() as cancel, open_run(plan) as store:
        bench = prepared_bench(live, plan.env, plan.preset, settings, store.dir)
        patch = plan.patch(bench)
        assert patch is not None
        show_patch(live, patch)
        tree = bench.add_patch(patch)
        if same_program(bench, tree):
            raise UserError("the patch changes comments and layout only", "there is no effect to confirm")
        subject = recorded(store, plan.env, asked.target, patch, tree)
        return look_at(live, settings, asked, store, bench, [subject], (), cancel)


def recorded(store: RunStore, env: EnvSpec, name: str, patch: Patch, tree: str) -> Subject:
    """The given diff as an idea of the run."""
    from xar_agent.jobs.records import IdeaRecord
    from xar_agent.store import write_atomic

    idea_id = hashlib.sha256(f"{env.name}\0{patch.sha256}".encode()).hexdigest()[:ID_DIGITS]
    path = store.dir / "impl" / idea_id / "patch.diff"
    store.add_idea(IdeaRecord(idea_id, f"the patch {name}", env.name))
    write_atomic(path, patch.diff)
    return Subject(idea_id, f"the patch {name}", patch, tree, path)


def confirm_run(live: Live, settings: Settings, asked: Asked, *, env: str | None, preset: str | None) -> Confirmed:
    """Candidates of a run, on record in that run."""
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.prepare import prepared_bench
    from xar_agent.errors import UserError
    from xar_agent.population.archive import read_candidates
    from xar_agent.population.winners import choose

    if asked.run_name is not None:
        raise UserError("--run names the new run of a PATCH; a RUN keeps its own name")
    if asked.idea_id is not None and asked.top is not None:
        raise UserError("give --idea or --top, not both")
    with interruptible() as cancel, opened_run(settings.runs_dir, asked.target) as store:
        spec, size = environment_of(store, env, preset)
        chosen = choose(read_candidates(store), idea_id=asked.idea_id, top=asked.top or 1)
        known = (store.record.get("settings") or {}).get("data")
        own_data = settings.model_copy(update={"data": settings.data or known})
        bench = prepared_bench(live, spec, size, own_data, store.dir)
        return look_at(live, settings, asked, store, bench, subjects(store, chosen), chosen.warnings, cancel)


@contextmanager
def opened_run(runs_dir: Path, name: str) -> Iterator[RunStore]:
    """A run that was made before, open for writing.

    Raises:
        UserError: there is no such run, or a command is at work on it.
    """
    from xar_agent.cli.prepare import require_space
    from xar_agent.errors import Interrupted
    from xar_agent.jobs.runs import RunStore, find_run

    folder = find_run(Path(name), None) if "/" in name else find_run(runs_dir, name)
    require_space(folder)
    with RunStore.open(folder) as store:
        try:
            yield store
        except (KeyboardInterrupt, Interrupted) as error:
            raise Interrupted("interrupted; the look is on record", "the same command goes on from there") from error


def environment_of(store: RunStore, env: str | None, preset: str | None) -> tuple[EnvSpec, str]:
    """The environment and preset that a run was made with.

    Raises:
        UserError: they are not there, have changed since, or the user names others.
    """
    from xar_agent.envs.spec import load_env
    from xar_agent.errors import UserError

    known = store.record.get("settings") or {}
    spec = load_env(env or str(known.get("env")))
    size = str(known.get("preset") or spec.default_preset)
    if spec.name != known.get("env") or (preset or size) != size:
        raise UserError(f"run {store.name} is of {known.get('env')}/{size}", "leave --env and --preset out")
    spec = spec.at(size)
    for key, now in (("env_version", spec.version), ("evaluator_version", spec.evaluator_version)):
        if known.get(key, now) != now:
            raise UserError(
                f"the environment {spec.name} has changed since run {store.name}",
                "confirm it with the release that made it, or evaluate its patches again",
            )
    return spec, size


def subjects(store: RunStore, chosen: Chosen) -> list[Subject]:
    """The candidates with their patches as they were measured."""
    found = []
    for one in chosen.candidates:
        spec, path = one.jobs[-1].spec, None
        if one.implementation is not None:
            path = store.dir / one.implementation.patch_path
        elif (given := store.dir / "impl" / one.idea.id / "patch.diff").is_file():
            path = given
        found.append(Subject(one.idea.id, one.idea.text, spec.patch, spec.tree, path))
    return found


def look_at(
    live: Live,
    settings: Settings,
    asked: Asked,
    store: RunStore,
    bench: Bench,
    wanted: list[Subject],
    warnings: tuple[str, ...],
    cancel: threading.Event,
) -> Confirmed:
    """Put all looks on record, then take one after the other."""
    from xar_agent.agent.limits import deadline
    from xar_agent.cli.confirmations import Confirmed
    from xar_agent.cli.result import ENDED_MEASURING
    from xar_agent.jobs.confirm import DEFAULT_SEEDS, take_look
    from xar_agent.jobs.local import LocalEngine
    from xar_agent.jobs.looks import Wanted, begin_looks

    began, error = time.monotonic(), None
    asked_for = [Wanted(one.idea_id, one.tree, one.patch.sha256) for one in wanted]
    looks = begin_looks(store, asked_for, asked.seeds, DEFAULT_SEEDS)
    for warning in warnings:
        live.line("warning", warning, "yellow")
    hours = settings.budget_hours
    tell = lambda event: show(live, event)  # noqa: E731
    try:
        with deadline(cancel, hours * 3600 if hours else None), LocalEngine(store, bench, parallel=asked.parallel) as e:
            for look, one in zip(looks, wanted, strict=True):
                live.line("look", f"{look.number}: {one.text}, {len(look.seeds)} fresh seeds, hidden split", "bold")
                take_look(store, bench, e, look, one.patch, on_event=tell, cancel=cancel)
    except ENDED_MEASURING as ended:
        error = ended
    numbers = {look.number: one for look, one in zip(looks, wanted, strict=True)}
    seconds = time.monotonic() - began
    return Confirmed(bench.env, bench.preset_name, store.dir, numbers, warnings, seconds, error, bench.data.corpus)


def show(live: Live, event: object) -> None:
    """Training, and the baseline when it is measured first."""
    from xar_agent.cli.envs import show_calibration
    from xar_agent.cli.events import show_event
    from xar_agent.jobs.baseline import CalibrationProgress

    if isinstance(event, CalibrationProgress):
        show_calibration(live, event)
        if event.done == event.total:
            live.finish("calibrate")
    else:
        show_event(live, event)


def run_around(path: Path) -> Path | None:
    """The run's folder that a patch lies in."""
    return next((folder for folder in path.absolute().parents if (folder / "run.json").is_file()), None)
