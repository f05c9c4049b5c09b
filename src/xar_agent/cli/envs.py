"""``xar-agent envs``: which environments there are, and the baseline's distribution on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.env_check import check
from xar_agent.cli.env_init import init
from xar_agent.cli.options import AS_JSON, DATA, DEBUG, settings_from

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xar_agent.cli.live import Live
    from xar_agent.config import Settings
    from xar_agent.envs.spec import Baseline, EnvSpec
    from xar_agent.jobs.baseline import CalibrationProgress, Split

DEFAULT_CALIBRATION_SEEDS = 20
"""The prediction interval's t quantile is within 7 % of the normal one from here on."""
COMPARED = {"val": "runs from now on are compared with this", "hidden": "confirm compares with this from now on"}


@click.group(name="envs")
def command() -> None:
    """Research environments and their baselines."""


command.add_command(check)
command.add_command(init)


@command.command(name="list")
@AS_JSON
@DEBUG
def list_(as_json: bool, debug: bool) -> None:
    """List the environments."""
    from xar_agent.cli.terminal import print_json, result_console, show_parts
    from xar_agent.envs.spec import EnvSpec, list_envs

    settings_from(debug)
    specs = [EnvSpec(folder) for _, folder in sorted(list_envs().items())]
    if as_json:
        print_json({"envs": [summary(spec) for spec in specs]})
        return
    show_parts(result_console(), table_of(specs))


@command.command()
@click.argument("name")
@AS_JSON
@DEBUG
def show(name: str, as_json: bool, debug: bool) -> None:
    """Show one environment: what may change, presets, baselines."""
    from xar_agent.cli.terminal import print_json, result_console, show_parts
    from xar_agent.envs.spec import load_env

    settings_from(debug)
    spec = load_env(name)
    spec = spec.at(spec.default_preset)
    if as_json:
        print_json(details(spec))
        return
    show_parts(result_console(), *page_of(spec))


@command.command(short_help="Measure the baseline on this machine.")
@click.argument("name")
@click.option("--preset", metavar="P", help="Preset. [default: the environment's first]")
@click.option(
    "--seeds",
    type=click.IntRange(2, 1000),
    default=DEFAULT_CALIBRATION_SEEDS,
    show_default=True,
    metavar="N",
    help="Training runs at the full budget.",
)
@click.option(
    "--split",
    type=click.Choice(["val", "hidden"]),
    default="val",
    show_default=True,
    help="Text that scores it: the search's, or the one that only confirm looks at.",
)
@click.option(
    "--carry",
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Take over the environment's own baseline of older files, if N of its seeds score the same to the last bit.",
)
@click.option("--sandbox", type=click.Choice(["auto", "docker", "bubblewrap", "process"]), help="Where training runs.")
@DATA
@AS_JSON
@DEBUG
def calibrate(
    name: str,
    preset: str | None,
    seeds: int,
    split: Split,
    carry: int | None,
    as_json: bool,
    debug: bool,
    **flags: Any,
) -> None:
    """Measure the baseline on this machine: the unchanged repository over many seeds and several budgets."""
    from xar_agent.cli.live import Live
    from xar_agent.cli.table import baseline_text
    from xar_agent.cli.terminal import print_json, progress_console, result_console, show_parts

    settings = settings_from(debug, **flags)
    with Live(progress_console()) as live:
        baseline = measure(live, name, preset, seeds, split, carry, settings)
    if as_json:
        print_json(baseline.model_dump())
        return
    show_parts(result_console(), f"{baseline_text(baseline)}: {COMPARED[split]}")


def summary(spec: EnvSpec) -> dict[str, Any]:
    """One row of ``envs list --json``."""
    return {
        "name": spec.name,
        "description": spec.file.description,
        "metric": spec.metric,
        "direction": spec.direction,
        "presets": list(spec.file.preset),
        "path": str(spec.folder),
    }


def details(spec: EnvSpec) -> dict[str, Any]:
    """The object of ``envs show --json``."""
    from xar_agent.jobs.baseline import baseline_for

    presets = {}
    for name, preset in spec.file.preset.items():
        baseline = baseline_for(spec, name)
        presets[name] = {
            **preset.model_dump(exclude={"baseline", "settings"}),
            "baseline": baseline.model_dump() if baseline else None,
        }
    return {
        **summary(spec),
        "version": spec.version,
        "evaluator_version": spec.evaluator_version,
        "editable": spec.file.editable,
        "protected": spec.file.protected,
        "contract": spec.file.contract.strip(),
        "presets": presets,
    }


def table_of(specs: list[EnvSpec]) -> RenderableType:
    """One line an environment."""
    from xar_agent.cli.terminal import listing

    table = listing("name", "presets", "metric", "description")
    for spec in specs:
        goal = f"{spec.metric} ({'lower' if spec.direction == 'min' else 'higher'} is better)"
        table.add_row(spec.name, ", ".join(spec.file.preset), goal, spec.file.description)
    return table


def page_of(spec: EnvSpec) -> list[RenderableType]:
    """Everything about one environment that a person who has an idea wants to know."""
    from xar_agent.analysis.text import duration
    from xar_agent.cli.table import baseline_text
    from xar_agent.cli.terminal import facts_grid
    from xar_agent.jobs.baseline import baseline_for

    rows = [
        ("name", spec.name),
        ("about", spec.file.description),
        ("metric", f"{spec.metric}, {'lower' if spec.direction == 'min' else 'higher'} is better"),
        ("editable", ", ".join(spec.file.editable)),
        ("protected", ", ".join(spec.file.protected)),
        ("files", str(spec.repo)),
    ]
    for name, preset in spec.file.preset.items():
        baseline = baseline_for(spec, name)
        rows.append((f"preset {name}", f"{preset.budget:,} {preset.clock}, {preset.cpus} CPU, {preset.memory} memory"))
        if baseline is None:
            rows.append(("", f"no baseline yet: xar-agent envs calibrate {spec.name} --preset {name}"))
        else:
            rows.append(("", f"baseline {baseline_text(baseline)}"))
            rows.append(("", f"one training run takes about {duration(baseline.cpu_s)} of CPU time there"))
    return [facts_grid(rows), "", spec.file.contract.strip()]


def measure(
    live: Live, name: str, preset: str | None, seeds: int, split: Split, carry: int | None, settings: Settings
) -> Baseline:
    """Calibrate with progress on stderr; the result lies in the cache and is used from now on."""
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.prepare import prepared_bench
    from xar_agent.envs.spec import load_env
    from xar_agent.jobs.baseline import calibrate as calibrate_bench
    from xar_agent.jobs.carry import carry as carry_over
    from xar_agent.sandbox.held import HeldFolder

    spec = load_env(name)
    preset = preset or spec.default_preset
    spec.preset(preset)
    with HeldFolder("calibrate") as scratch:
        bench = prepared_bench(live, spec, preset, settings, scratch)
        with interruptible() as cancel:
            tell = lambda now: show_calibration(live, now)  # noqa: E731
            if carry is not None:
                return carry_over(bench, carry, split=split, on_progress=tell, cancel=cancel)
            return calibrate_bench(bench, seeds, split=split, on_progress=tell, cancel=cancel)


def show_calibration(live: Live, now: CalibrationProgress) -> None:
    """A bar with the latest value."""
    latest = f", latest {now.last.value:.4f} at {now.last.compute:g} x compute" if now.last else ""
    live.advance("calibrate", "calibrate", now.done, now.total, f"{now.done} of {now.total} runs{latest}")
