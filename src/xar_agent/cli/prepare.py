"""What has to be there before anything runs: the run's folder, the model's file, the data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xar_agent.analysis.text import size
from xar_agent.cli.live import Live
from xar_agent.errors import ServiceMissing, StoreError, UserError

if TYPE_CHECKING:
    from xar_agent.agent.choose import ModelChoice
    from xar_agent.cli.plan import Plan
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.data import PrepareProgress
    from xar_agent.jobs.runs import RunStore


MIN_FREE_BYTES = 64 << 20
"""Checkouts, a checkpoint and logs of one small run; with less, a full disk would look like the idea's fault."""


def require_space(runs_dir: Path) -> None:
    """Refuse to begin on a disk that is nearly full.

    Raises:
        StoreError: there is too little space; nothing was written.
    """
    place = next(folder for folder in (runs_dir, *runs_dir.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        raise StoreError(
            f"the disk of {place} is full: {size(free)} are free, a run needs {size(MIN_FREE_BYTES)}",
            "free some space, or use --runs-dir on another disk",
        )


@contextmanager
def open_run(plan: Plan) -> Iterator[RunStore]:
    """The command's own run, open for writing: a new one, or the one of that name that was cut off.

    When wrong input or a missing service ends the command before any work is on record, a new run's folder goes away
    again: it would only say that nothing happened.
    """
    from xar_agent.jobs.runs import RUN_FILE, RunStore

    require_space(plan.settings.runs_dir)
    is_new = plan.run_dir is None or not (plan.run_dir / RUN_FILE).exists()
    with RunStore.open_or_create(plan.settings.runs_dir, plan.run_name, plan.record()) as store:
        try:
            yield store
        except (UserError, ServiceMissing):
            if is_new and not store.jobs() and not any(made.steps for made in store.implementations()):
                store.close()
                shutil.rmtree(store.dir)
            raise


def prepared_bench(live: Live, env: EnvSpec, preset: str, backend: str, run_dir: Path) -> Bench:
    """The environment ready to work on, with the data set in the cache.

    Raises:
        DataUnavailable: the data set cannot be prepared.
        CapabilityMissing: no sandbox works here.
    """
    from xar_agent.jobs.bench import open_bench

    def show(now: PrepareProgress) -> None:
        live.advance("data", "data", now.done, now.total, now.stage)

    try:
        return open_bench(env, preset, backend, run_dir, on_progress=show)
    finally:
        live.finish("data")


def model_ready(live: Live, choice: ModelChoice | None) -> None:
    """Download the embedded model's file when it is the one in use and not there yet.

    Raises:
        ModelUnavailable: it cannot be had, or is damaged.
    """
    from xar_agent.cli.models import fetched

    if choice is not None and choice.kind == "local":
        fetched(live, choice.name.removeprefix("local/"))
