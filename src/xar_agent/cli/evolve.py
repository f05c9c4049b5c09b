"""``xar-agent evolve``: ideas, children of the best ones, and what they came to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import FIRST_SEED, SEEDS, common_to_runs, settings_from, start_logging

if TYPE_CHECKING:
    from xar_agent.cli.batch import BatchResult
    from xar_agent.cli.batch_plan import BatchPlan


@click.command(name="evolve", short_help="Search: many ideas, and children of those that work.")
@click.option("--env", metavar="NAME", help="Environment to work in. [default: nanogpt]")
@click.option("--preset", metavar="P", help="Size of the environment. [default: its first]")
@click.option("--policy", metavar="NAME", help="paper, best-of-n, hill-climb or knobs. [default: paper]")
@click.option("--epochs", type=int, metavar="T", help="Rounds of ideas. [default: 3]")
@click.option("--ideas", type=int, metavar="N", help="Ideas in each epoch. [default: 8]")
@click.option("--parallel", type=int, metavar="K", help="Ideas at a time. [default: what the machine takes]")
@click.option("--model", metavar="M", help="A litellm name, or local/qwen2.5-coder-1.5b. [default: see models list]")
@click.option(
    "--ideas-from",
    type=click.Choice(["model", "knobs"]),
    help="Who thinks of ideas: the model, or chance over the environment's knobs. [default: the policy's]",
)
@SEEDS
@FIRST_SEED
@click.option(
    "--search-seed", type=int, default=1, show_default=True, metavar="S", help="Seed of the policy's choices."
)
@click.option("--max-steps", type=int, metavar="N", help="Tool calls that the agent may make. [default: 60]")
@click.option("--repairs", type=int, metavar="N", help="How often a full run that crashed goes back. [default: 1]")
@click.option("--budget-gpu-hours", type=float, metavar="H", help="Stop before H GPU-hours of training are exceeded.")
@click.option("--config", metavar="FILE", help="Settings from this file instead of xar.toml.")
@common_to_runs
def command(
    first_seed: int,
    search_seed: int,
    ideas_from: Any,
    run_name: str | None,
    as_json: bool,
    debug: bool,
    **flags: Any,
) -> int:
    """Search for patches that beat the baseline: ask for ideas, implement and train them, and build on what works.

    The same command with --run NAME goes on with a run that was stopped or killed; nothing is trained or paid twice.

    For instance: xar-agent evolve --env nanogpt --policy knobs --epochs 2 --ideas 12
    """
    from xar_agent.cli.batch_plan import make_batch_plan

    began = time.monotonic()
    start_logging(debug=debug)
    plan = make_batch_plan(
        settings_from(debug, **flags),
        verb="evolve",
        ideas_from=ideas_from,
        model=flags["model"],
        first_seed=first_seed,
        search_seed=search_seed,
        run_name=run_name,
    )
    return to_its_end(plan, began, as_json=as_json, debug=debug)


def to_its_end(plan: BatchPlan, began: float, *, as_json: bool, debug: bool) -> int:
    """Carry a batch out and tell what came of it; the exit code."""
    result = carried_out(plan, began)
    tell(result, as_json=as_json, debug=debug)
    return exit_code(result, result.n_valid if plan.submit else result.n_implemented)


def exit_code(result: BatchResult, n_good: int) -> int:
    """0 when the plan or the budget is used up and something came of it; else what ended it, or 1."""
    from xar_agent.errors import BudgetReached
    from xar_agent.population.proposals import MenuExhausted

    if result.stopped is not None and not isinstance(result.stopped, BudgetReached | MenuExhausted):
        return result.stopped.exit_code
    return 0 if n_good else 1


def carried_out(plan: BatchPlan, began: float) -> BatchResult:
    """The batch, shown on stderr."""
    from xar_agent.cli.batch import run_batch
    from xar_agent.cli.live import Live
    from xar_agent.cli.terminal import progress_console

    with Live(progress_console()) as live:
        return run_batch(live, plan, began)


def tell(result: BatchResult, *, as_json: bool, debug: bool) -> None:
    """Why it ended early on stderr; the report on stdout."""
    from xar_agent.cli.report import as_object, read, show, write_plots
    from xar_agent.cli.terminal import print_json, tell_error

    if result.stopped is not None:
        tell_error(result.stopped, debug=debug)
    report = read(result.run_dir.parent, result.run_dir.name)
    plot = write_plots(report)
    if as_json:
        whole = as_object([report], [plot], None)
        completion = {**whole["completion"], "implemented": result.n_implemented}
        print_json({**whole, "completion": completion, "run_dir": str(result.run_dir), **ending_json(result)})
    else:
        show([report], [plot], None)


def ending_json(result: BatchResult) -> dict[str, Any]:
    """How the command ended."""
    stopped = result.stopped.message if result.stopped is not None else None
    return {"stopped": stopped, "duration_s": round(result.duration_s, 1)}
