"""``xar-agent evaluate``: a person's own diff through the same jobs and checks."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import FIRST_SEED, SEEDS, common_to_runs, settings_from, start_logging

if TYPE_CHECKING:
    from xar_agent.cli.live import Live
    from xar_agent.cli.plan import Plan
    from xar_agent.cli.result import Result
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.measured import Measured
    from xar_agent.jobs.runs import RunStore
    from xar_agent.jobs.types import SmokeReport
    from xar_agent.sandbox.protocol import Patch

ID_DIGITS = 10


@click.command(name="evaluate", short_help="Train and score a diff of your own.")
@click.argument("patch")
@click.option("--env", metavar="NAME", required=True, help="Environment that the diff belongs to.")
@click.option("--preset", metavar="P", help="Size of the environment. [default: its first]")
@SEEDS
@FIRST_SEED
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@common_to_runs
def command(
    patch: str, first_seed: int, dry_run: bool, run_name: str | None, as_json: bool, debug: bool, **flags: Any
) -> int:
    """Train and score the diff in PATCH ("-" reads stdin) exactly as an agent's; it must apply without fuzz."""
    from xar_agent.cli.dry_run import say_plan
    from xar_agent.cli.events import show_setting
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.live import Live
    from xar_agent.cli.plan import make_plan
    from xar_agent.cli.prepare import open_run, prepared_bench
    from xar_agent.cli.table import print_result
    from xar_agent.cli.terminal import progress_console

    start_logging(debug=debug)
    settings = settings_from(debug, **flags)
    plan = make_plan(
        settings, idea=None, patch=patch, first_seed=first_seed, submit=True, run_name=run_name, dry=dry_run
    )
    if dry_run:
        say_plan(plan, as_json=as_json)
        return 0
    with Live(progress_console()) as live, interruptible() as cancel, open_run(plan) as store:
        show_setting(live, plan)
        bench = prepared_bench(live, plan.env, plan.preset, settings, store.dir)
        result = measured(live, plan, store, bench, patch, cancel)
    print_result(result, as_json=as_json, debug=debug)
    return 0 if result.scored else 1


@dataclass(slots=True)
class Given:
    """The person's diff on its way."""

    idea_id: str
    patch: Patch
    store: RunStore
    smoke: SmokeReport | None = None

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.store.dir / "impl" / self.idea_id

    def record_smoke(self, smoke: SmokeReport) -> None:
        """Keep the report, as an episode does."""
        from xar_agent.jobs.records import dump
        from xar_agent.redact import redact
        from xar_agent.store import write_atomic

        self.smoke = smoke
        write_atomic(self.folder / "smoke.json", redact(dump(smoke)))


def measured(live: Live, plan: Plan, store: RunStore, bench: Bench, name: str, cancel: threading.Event) -> Result:
    """Smoke test and full runs of the given diff, recorded as an idea of its own."""
    from xar_agent.cli.events import show_patch
    from xar_agent.cli.result import ENDED_MEASURING, Result
    from xar_agent.jobs.measured import measured_so_far
    from xar_agent.jobs.records import IdeaRecord
    from xar_agent.store import write_atomic

    began = time.monotonic()
    patch = plan.patch(bench)
    assert patch is not None
    show_patch(live, patch)
    given = Given(hashlib.sha256(f"{plan.env.name}\0{patch.sha256}".encode()).hexdigest()[:ID_DIGITS], patch, store)
    store.add_idea(IdeaRecord(given.idea_id, f"the patch {name}", plan.env.name))
    write_atomic(given.folder / "patch.diff", patch.diff)
    tree, failed = bench.add_patch(patch), None
    try:
        found = trained(live, plan, bench, given, tree, cancel)
    except ENDED_MEASURING as error:
        found, failed = measured_so_far(store, bench, given.idea_id, tree), error
    return Result(
        env=plan.env,
        run_dir=store.dir,
        idea_id=given.idea_id,
        patch_path=given.folder / "patch.diff",
        implementation=None,
        smoke=given.smoke,
        measured=found,
        sandbox=plan.sandbox.backend,
        duration_s=time.monotonic() - began,
        error=failed,
    )


def trained(live: Live, plan: Plan, bench: Bench, given: Given, tree: str, cancel: threading.Event) -> Measured | None:
    """The smoke test, and the full runs if it passes.

    Raises:
        BudgetReached, SandboxError, EvaluationError: something ended it; what was done is on record.
    """
    from xar_agent.agent.limits import deadline
    from xar_agent.cli.events import show_event
    from xar_agent.jobs.measured import measure_patch
    from xar_agent.jobs.smoke import run_smoke

    with deadline(cancel, plan.limits(0.0).wall_s):
        smoke = run_smoke(bench, tree, log_path=given.folder / "smoke.log", cancel=cancel)
        given.record_smoke(smoke)
        show_event(live, smoke)
        if not smoke.passed:
            return None
        tell = lambda event: show_event(live, event)  # noqa: E731
        store, patch = given.store, given.patch
        return measure_patch(store, bench, given.idea_id, patch, tree, plan.seeds, on_event=tell, cancel=cancel)
