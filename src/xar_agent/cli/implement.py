"""``xar-agent implement``: one idea to one patch to one score."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import FIRST_SEED, SEEDS, common_to_runs, settings_from, start_logging

if TYPE_CHECKING:
    from xar_agent.agent.messages import ChatModel
    from xar_agent.agent.run import IdeaResult
    from xar_agent.cli.live import Live
    from xar_agent.cli.plan import Plan
    from xar_agent.cli.result import Result
    from xar_agent.errors import XarError
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.runs import RunStore

FIRST_LOCAL_ANSWER = " (its first answer takes a minute or two)"


@click.command(name="implement", short_help="Carry out an idea, train the result and score it.")
@click.argument("idea", required=False)
@click.option("--ideas", "ideas_file", metavar="FILE", help="Carry out every idea in FILE: one a line, or JSON.")
@click.option("--env", metavar="NAME", help="Environment to work in. [default: nanogpt]")
@click.option("--preset", metavar="P", help="Size of the environment. [default: its first]")
@click.option("--model", metavar="M", help="A litellm name, or local/qwen2.5-coder-1.5b. [default: see models list]")
@SEEDS
@FIRST_SEED
@click.option("--max-steps", type=int, metavar="N", help="Tool calls that the agent may make. [default: 60]")
@click.option("--repairs", type=int, metavar="N", help="How often a full run that crashed goes back. [default: 1]")
@click.option("--parent", metavar="PATCH", help="Start from this diff instead of the plain repository.")
@click.option("--parallel", type=int, metavar="K", help="With --ideas: so many at a time. [default: what fits]")
@click.option("--no-submit", is_flag=True, help="Stop after the smoke test; no full training run.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@common_to_runs
def command(
    idea: str | None,
    ideas_file: str | None,
    parallel: int | None,
    first_seed: int,
    parent: str | None,
    no_submit: bool,
    dry_run: bool,
    run_name: str | None,
    as_json: bool,
    debug: bool,
    **flags: Any,
) -> int:
    """Let an agent carry out IDEA, train the result in full, and score it against the baseline.

    For instance: xar-agent implement "Raise the peak learning rate to 6e-3"

    With --ideas FILE instead of IDEA, every idea in the file is carried out in one run, several at a time.
    """
    from xar_agent.cli.dry_run import say_plan
    from xar_agent.cli.live import Live
    from xar_agent.cli.plan import make_plan
    from xar_agent.cli.table import print_result
    from xar_agent.cli.terminal import progress_console
    from xar_agent.errors import UserError

    if (idea is None) == (ideas_file is None):
        raise UserError("give one IDEA, or --ideas FILE", "see: xar-agent implement --help")
    if ideas_file is not None:
        if parent is not None or dry_run:
            raise UserError("--parent and --dry-run go with one IDEA, not with --ideas", "leave it out")
        return many(ideas_file, parallel, first_seed, not no_submit, run_name, as_json=as_json, debug=debug, **flags)
    start_logging(debug=debug)
    settings = settings_from(debug, **flags)
    plan = make_plan(
        settings,
        idea=idea,
        model=flags["model"],
        patch=parent,
        first_seed=first_seed,
        submit=not no_submit,
        run_name=run_name,
        dry=dry_run,
    )
    if dry_run:
        say_plan(plan, as_json=as_json)
        return 0
    with Live(progress_console()) as live:
        result = carry_out(live, plan)
    print_result(result, as_json=as_json, debug=debug)
    return 0 if (result.implemented if no_submit else result.scored) else 1


def many(
    ideas_file: str,
    parallel: int | None,
    first_seed: int,
    submit: bool,
    run_name: str | None,
    *,
    as_json: bool,
    debug: bool,
    **flags: Any,
) -> int:
    """Every idea in a file, as one batch; how many of them became a patch, and a score."""
    from xar_agent.cli.batch_plan import make_batch_plan
    from xar_agent.cli.evolve import to_its_end

    began = time.monotonic()
    start_logging(debug=debug)
    plan = make_batch_plan(
        settings_from(debug, parallel=parallel, **flags),
        verb="implement",
        ideas_file=ideas_file,
        model=flags["model"],
        first_seed=first_seed,
        submit=submit,
        run_name=run_name,
    )
    return to_its_end(plan, began, as_json=as_json, debug=debug)


def carry_out(live: Live, plan: Plan) -> Result:
    """Everything that takes time, shown as it happens, recorded in a run of its own."""
    from xar_agent.agent.choose import open_model
    from xar_agent.cli.events import show_setting, show_thinking
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.prepare import model_ready, open_run, prepared_bench
    from xar_agent.cli.result import result_of

    assert plan.model is not None
    began = time.monotonic()
    show_setting(live, plan)
    with interruptible() as cancel, open_run(plan) as store:
        model_ready(live, plan.model)
        bench = prepared_bench(live, plan.env, plan.preset, plan.settings, store.dir)
        model = open_model(plan.model, log_dir=store.dir)
        show_thinking(live, 1, FIRST_LOCAL_ANSWER if plan.model.kind == "local" else "")
        try:
            outcome, error = attempted(live, plan, store, bench, model, cancel, time.monotonic() - began)
        finally:
            model.close()
    return result_of(plan, store.dir, outcome, time.monotonic() - began, error)


def attempted(
    live: Live, plan: Plan, store: RunStore, bench: Bench, model: ChatModel, cancel: threading.Event, spent_s: float
) -> tuple[IdeaResult, XarError | None]:
    """What the idea came to; with the error that ended it after its episode was on record."""
    from xar_agent.agent.run import recorded_result, run_idea
    from xar_agent.cli.events import show_event
    from xar_agent.cli.result import ENDED_MEASURING

    assert plan.idea is not None
    try:
        outcome = run_idea(
            plan.idea,
            bench=bench,
            store=store,
            model=model,
            limits=plan.limits(spent_s),
            seeds=plan.seeds,
            repairs=plan.settings.repairs,
            parent=plan.patch(bench),
            submit=plan.submit,
            on_event=lambda event: show_event(live, event),
            cancel=cancel,
        )
    except ENDED_MEASURING as error:
        recorded = recorded_result(plan.idea, bench, store)
        if recorded is None:
            raise
        return recorded, error
    return outcome, None
