"""``xar-agent evaluate``: a person's own diff through the same jobs and checks."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import FIRST_SEED, SEEDS, common_to_runs, settings_from, start_logging

if TYPE_CHECKING:
    from xar_agent.cli.live import Live
    from xar_agent.cli.plan import Plan
    from xar_agent.cli.result import Result
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.runs import RunStore

ID_DIGITS = 10


@click.command(name="evaluate", short_help="Train and score a diff of your own.")
@click.argument("patch")
@click.option("--env", metavar="NAME", required=True, help="Environment that the diff belongs to.")
@click.option("--preset", metavar="P", help="Size of the environment. [default: its first]")
@SEEDS
@FIRST_SEED
@common_to_runs
def command(patch: str, first_seed: int, run_name: str | None, as_json: bool, debug: bool, **flags: Any) -> int:
    """Train and score the diff in PATCH ("-" reads stdin) exactly as an agent's; it must apply without fuzz."""
    from xar_agent.cli.events import show_setting
    from xar_agent.cli.interrupt import deadline, interruptible
    from xar_agent.cli.live import Live
    from xar_agent.cli.plan import make_plan
    from xar_agent.cli.prepare import open_run, prepared_bench
    from xar_agent.cli.table import print_result
    from xar_agent.cli.terminal import progress_console

    start_logging(debug=debug)
    settings = settings_from(debug, **flags)
    plan = make_plan(settings, idea=None, patch=patch, first_seed=first_seed, submit=True, run_name=run_name)
    with (
        Live(progress_console()) as live,
        interruptible() as cancel,
        deadline(cancel, settings.budget_hours),
        open_run(plan) as store,
    ):
        show_setting(live, plan)
        bench = prepared_bench(live, plan.env, plan.preset, settings.sandbox, store.dir)
        result = measured(live, plan, store, bench, patch, cancel)
    print_result(result, as_json=as_json)
    return 0 if result.scored else 1


def measured(live: Live, plan: Plan, store: RunStore, bench: Bench, name: str, cancel: threading.Event) -> Result:
    """Smoke test and full runs of the given diff, recorded as an idea of its own."""
    from xar_agent.cli.events import show_event, show_patch
    from xar_agent.cli.result import Result
    from xar_agent.jobs.measured import measure_patch
    from xar_agent.jobs.records import IdeaRecord
    from xar_agent.jobs.smoke import run_smoke
    from xar_agent.store import write_atomic

    began = time.monotonic()
    patch = plan.patch(bench)
    assert patch is not None
    show_patch(live, patch)
    idea_id = hashlib.sha256(f"{plan.env.name}\0{patch.sha256}".encode()).hexdigest()[:ID_DIGITS]
    store.add_idea(IdeaRecord(idea_id, f"the patch {name}", plan.env.name))
    folder = store.dir / "impl" / idea_id
    write_atomic(folder / "patch.diff", patch.diff)
    tree = bench.add_patch(patch)
    smoke = run_smoke(bench, tree, log_path=folder / "smoke.log", cancel=cancel)
    show_event(live, smoke)
    found = None
    if smoke.passed:
        tell = lambda event: show_event(live, event)  # noqa: E731
        found = measure_patch(store, bench, idea_id, patch, tree, plan.seeds, on_event=tell, cancel=cancel)
    return Result(
        env=plan.env,
        run_dir=store.dir,
        idea_id=idea_id,
        patch_path=folder / "patch.diff",
        implementation=None,
        smoke=smoke,
        measured=found,
        sandbox=plan.sandbox.backend,
        duration_s=time.monotonic() - began,
    )
