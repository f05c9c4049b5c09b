"""``xar-agent doctor``: what this machine has for a run, what would be used and why, and what dead runs have left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import AS_JSON, DEBUG, RUNS_DIR, SANDBOX, settings_from

if TYPE_CHECKING:
    from xar_agent.cli.examination import Examination
    from xar_agent.config import Settings

MAKE_TARGETS = {"xar-agent:cpu": "make image-cpu", "xar-agent:gpu": "make image"}


@click.command(name="doctor", short_help="Say what this machine has, and what a run would use.")
@click.option(
    "--gpu", is_flag=True, help="Compute on the GPUs in each sandbox, and see that only leased ones are there."
)
@click.option("--clean", is_flag=True, help="Remove what dead runs have left; nothing of a living run, and no results.")
@click.option("--env", metavar="NAME", help="Environment of the run. [default: nanogpt]")
@click.option("--preset", metavar="P", help="Size of the environment. [default: its first]")
@click.option("--model", metavar="M", help="Model of the run. [default: see models list]")
@SANDBOX
@RUNS_DIR
@AS_JSON
@DEBUG
def command(gpu: bool, clean: bool, as_json: bool, debug: bool, **flags: Any) -> int:
    """Look at sandboxes, images, GPUs, model, keys (their names only), disks and leftovers, and change nothing.

    Exits with 0 when `implement` could begin here with what is there, else with 3 and the first thing to do.
    """
    from xar_agent.errors import UserError
    from xar_agent.sandbox import probe

    if gpu and clean:
        raise UserError("--gpu and --clean are two commands", "give one of them")
    settings = settings_from(debug, **flags)
    probe("process")  # says what to do where there is no Linux
    if clean:
        return clean_up(settings, as_json=as_json)
    if gpu:
        return compute_on_gpus(settings, as_json=as_json)
    return look(settings, as_json=as_json)


def look(settings: Settings, *, as_json: bool) -> int:
    """The table, or one JSON object."""
    from xar_agent.cli.examination import examine
    from xar_agent.cli.terminal import facts_grid, print_json, result_console, show_parts, tell_error

    found = examine(settings)
    if as_json:
        print_json(masked(found.record()))
    else:
        parts = [masked_rows(rows_of(found)), masked_rows(used_rows(found))]
        show_parts(result_console(), facts_grid(parts[0]), "", "What a run would use", facts_grid(parts[1]))
    if found.obstacle is None:
        return 0
    tell_error(type(found.obstacle)(masked(found.obstacle.message), masked(found.obstacle.hint)), debug=False)
    return found.obstacle.exit_code


def masked(value: Any) -> Any:
    """The same without passwords that stand in addresses; print_json and facts_grid do the rest."""
    from xar_agent.cli.machine import without_credentials

    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: masked(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    return value


def masked_rows(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows for a person, without secrets."""
    from xar_agent.redact import redact

    return [(label, redact(masked(text))) for label, text in rows]


def rows_of(found: Examination) -> list[tuple[str, str]]:
    """A label and a line for each thing that was looked at."""
    from xar_agent.analysis.text import size
    from xar_agent.cli.table import shown

    python = found.python
    rows = [("engine", engine_text(found)), *image_rows(found), *gpu_rows(found), ("bwrap", bwrap_text(found))]
    rows += [("cgroups", cgroup_text(found)), ("embedded", embedded_text(found))]
    rows.append(("keys", ", ".join(found.keys) or "none in the environment"))
    for number, (use, (folder, free)) in enumerate(found.free.items()):
        rows.append(("" if number else "disk", f"{size(free)} free for {use} files ({shown(Path(folder))})"))
    torch = f"torch {python.torch}" if python.torch else "no torch"
    rows.append(("python", f"{python.version} ({python.path}), {torch}"))
    return [*rows, *leftover_rows(found)]


def engine_text(found: Examination) -> str:
    """The Docker engine, or why it cannot be used."""
    engine = found.engine
    if not engine.version:
        return f"cannot be used: {engine.why_not}; {engine.hint}"
    gpu = "with GPU runtime" if engine.gpu_runtime else "no GPU runtime (install nvidia-container-toolkit for GPUs)"
    return f"Docker {engine.version}, API {engine.api}, {engine.storage}, cgroup v{engine.cgroup_version}, {gpu}"


def image_rows(found: Examination) -> list[tuple[str, str]]:
    """Each image that is looked for."""
    from xar_agent.analysis.text import size

    rows = []
    for number, image in enumerate(found.engine.images):
        target = MAKE_TARGETS.get(image.name)
        build = f"{image.build}{f' (in a clone: {target})' if target else ''}"
        state = size(image.n_bytes) if image.n_bytes is not None else "not there" if found.engine.version else "unknown"
        rows.append(
            ("" if number else "image", f"{image.name}: {state}{'' if image.n_bytes is not None else f'; {build}'}")
        )
    return rows


def gpu_rows(found: Examination) -> list[tuple[str, str]]:
    """Each GPU with who holds it."""
    gpus = found.gpus
    if gpus.why_not:
        return [("GPUs", f"cannot be used: {gpus.why_not}; {gpus.hint}")]
    lines = []
    for gpu in gpus.devices:
        holder = f"held by process {gpu['held_by']}" if gpu["held_by"] else "free"
        lines.append(f"{gpu['index']}: {gpu['name']}, {gpu['memory_mib']:,} MiB, {holder} ({gpu['uuid']})")
    lines += gpus.left_out
    return [("" if number else "GPUs", line) for number, line in enumerate(lines or ["none"])]


def bwrap_text(found: Examination) -> str:
    """bubblewrap, or why it cannot be used."""
    bwrap = found.bwrap
    who = "as root" if bwrap.as_root else "as an ordinary user"
    kernel = f"user namespaces {bwrap.user_namespaces}"
    if bwrap.works:
        return f"works: {bwrap.detail}; {who}, {kernel}"
    there = f"{bwrap.version} ({bwrap.path}), " if bwrap.path else ""
    return f"cannot be used: {bwrap.why_not}; {there}{who}, {kernel}; {bwrap.hint}"


def cgroup_text(found: Examination) -> str:
    """Control groups, and what bounds commands where there is no container engine."""
    groups = found.cgroups
    usable = f"groups can be made (v{groups.usable})" if groups.usable else "none can be made by this user"
    mounted = "not mounted" if groups.mounted == "none" else groups.mounted
    bounds = f"without Docker memory is bounded by {groups.memory}, processes by {groups.processes}"
    return f"{mounted}, {usable}; {bounds}"


def embedded_text(found: Examination) -> str:
    """The embedded model's file and its server."""
    from xar_agent.analysis.text import size

    model = found.model
    file = model.embedded_path or f"not downloaded ({size(model.embedded_bytes)}: xar-agent models fetch)"
    server = "" if model.server_installed else "; its server is not installed (pip install 'xar-agent[local]')"
    there = f" ({size(model.embedded_bytes)})" if model.embedded_path else ""
    return f"{file}{there}{server}"


def leftover_rows(found: Examination) -> list[tuple[str, str]]:
    """How much dead runs have left, and what cannot be judged."""
    counts = Counter(one.kind for one in found.leftovers if one.remove)
    words = ", ".join(f"{n} {kind}{'' if n == 1 else 'es' if kind == 'process' else 's'}" for kind, n in counts.items())
    text = f"{words}; xar-agent doctor --clean removes them" if counts else "none"
    unsure: dict[tuple[str, str], list[str]] = {}
    for one in found.leftovers:
        if one.name and one.remove is None:
            unsure.setdefault((one.kind, one.why), []).append(one.name)
    alone = []
    for (kind, why), names in unsure.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        alone.append(("", f"left alone: {kind} {names[0]}{others}: {why}"))
    return [("leftovers", text), *alone]


def used_rows(found: Examination) -> list[tuple[str, str]]:
    """What ``implement`` would use, and why."""
    from xar_agent.cli.plan import about_sandbox

    sandbox, model = found.sandbox, found.model
    rows = [("sandbox", about_sandbox(sandbox) if sandbox else "none"), ("why", found.why)]
    if sandbox and sandbox.image:
        rows.append(("image", f"{sandbox.image}: {sandbox.runtime}"))
    rows.append(("model", model.about or "none"))
    if model.why_not:
        rows.append(("", f"cannot be used: {model.why_not}; {model.hint}"))
    rows.append(("env", f"{found.env.name}, preset {found.preset}"))
    rows.append(("ready", "yes: xar-agent implement could begin" if found.obstacle is None else "no"))
    return rows


def clean_up(settings: Settings, *, as_json: bool) -> int:
    """Remove leftovers, a line each; 1 when one of them could not be removed."""
    from xar_agent.cli.leftovers import finders
    from xar_agent.cli.terminal import one_line, print_json
    from xar_agent.sandbox.clean import clean

    done: dict[str, list[dict[str, str]]] = {"removed": [], "left": [], "failed": []}
    for cleaning in clean(finders(settings.runs_dir)):
        one = cleaning.leftover
        done[cleaning.outcome].append({"kind": one.kind, "name": one.name, "why": masked(cleaning.reason)})
        if not as_json:
            words = {"removed": "removed", "left": "left alone", "failed": "could not remove"}[cleaning.outcome]
            what = f"{words} {one.kind} {one.name}: " if one.name else ""
            click.echo(one_line(f"{what}{masked(cleaning.reason)}"))
    if as_json:
        print_json(done)
    elif not done["removed"]:
        click.echo("nothing to remove")
    return 1 if done["failed"] else 0


def compute_on_gpus(settings: Settings, *, as_json: bool) -> int:
    """A matrix product on one leased GPU inside each back end, or inside the one that was named.

    1 when a back end reached a GPU and something was wrong, 3 when none reached one.

    Raises:
        CapabilityMissing: there is no GPU here.
    """
    from dataclasses import asdict

    from xar_agent.cli.machine import ANSWER_S
    from xar_agent.cli.terminal import facts_grid, print_json, result_console, show_parts, tell_error
    from xar_agent.errors import CapabilityMissing
    from xar_agent.sandbox.gpu_check import check_gpus
    from xar_agent.sandbox.gpus import machine_gpus
    from xar_agent.sandbox.patience import within

    found = within(ANSWER_S, machine_gpus().source, "the GPUs' driver", "see whether nvidia-smi answers")
    if not found.devices:
        why = "".join(f"; {line}" for line in found.left_out)
        raise CapabilityMissing(f"there is no GPU here that can be used{why}", "use a machine with NVIDIA's driver")
    backends = ("docker", "bubblewrap") if settings.sandbox == "auto" else (settings.sandbox,)
    reports = [check_gpus(backend, image=settings.image) for backend in backends]
    if as_json:
        print_json(masked({"gpu": [asdict(report) for report in reports]}))
    else:
        lines = [(one.backend, one.line if one.ok or not one.hint else f"{one.line}; {one.hint}") for one in reports]
        show_parts(result_console(), facts_grid(masked_rows(lines)))
    if any(one.device and not one.ok for one in reports):
        return 1
    if any(one.ok for one in reports):
        return 0
    tell_error(CapabilityMissing("no sandbox here can give a job a GPU", masked(reports[0].line)), debug=False)
    return CapabilityMissing.exit_code
