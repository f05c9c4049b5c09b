"""What has to be there before anything runs: the run's folder, the model's file, the data set."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from xar_agent.analysis.text import size
from xar_agent.cli.live import Live
from xar_agent.cli.table import shown
from xar_agent.errors import Interrupted, ModelUnavailable, ServiceMissing, StoreError, UserError

if TYPE_CHECKING:
    from xar_agent.agent.choose import ModelChoice
    from xar_agent.config import Settings
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.data import PrepareProgress
    from xar_agent.jobs.runs import RunStore


CONNECT_S = 10.0
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


class Undertaking(Protocol):
    """What a command is about to do, checked."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        ...

    @property
    def run_name(self) -> str | None:
        """The run's, if the user gave one."""
        ...

    def record(self) -> dict[str, Any]:
        """What run.json keeps of it."""
        ...


@contextmanager
def open_run(plan: Undertaking) -> Iterator[RunStore]:
    """The command's own run, open for writing: a new one, or the one of that name that was cut off.

    When wrong input or a missing service ends the command before any work is on record, a folder that this call made
    goes away again: it would only say that nothing happened.
    """
    from xar_agent.jobs.runs import RunStore

    require_space(plan.settings.runs_dir)
    with RunStore.open_or_create(plan.settings.runs_dir, plan.run_name, plan.record()) as store:
        try:
            yield store
        except (UserError, ServiceMissing):
            if store.made_folder and is_untouched(store):
                store.close()
                shutil.rmtree(store.dir)
            raise
        except (KeyboardInterrupt, Interrupted) as error:
            hint = f"the same command with --run {store.name} goes on from there"
            raise Interrupted(f"interrupted; the record is in {shown(store.dir)}", hint) from error


def is_untouched(store: RunStore) -> bool:
    """No work is on record: no job, no step of an agent, no idea of a model."""
    from xar_agent.population.budget import FILE_NAME as LEDGER
    from xar_agent.population.decisions import FILE_NAME as DECISIONS

    began = store.jobs() or any(made.steps for made in store.implementations())
    return not began and not any((store.dir / name).exists() for name in (LEDGER, DECISIONS))


def prepared_bench(live: Live, env: EnvSpec, preset: str, settings: Settings, run_dir: Path) -> Bench:
    """The environment ready to work on, with the data set in the cache.

    Raises:
        DataUnavailable: the data set cannot be prepared.
        CapabilityMissing: no sandbox works here.
    """
    from xar_agent.jobs.bench import open_bench

    def show(now: PrepareProgress) -> None:
        live.advance("data", "data", now.done, now.total, now.stage)

    try:
        return open_bench(
            env, preset, settings.sandbox, run_dir, image=settings.image, source=settings.data, on_progress=show
        )
    finally:
        live.finish("data")


def model_ready(live: Live, choice: ModelChoice | None) -> None:
    """Download the embedded model's file when it is needed and not there; see that a named server is up.

    Raises:
        ModelUnavailable: the file cannot be had, or is damaged; nothing listens at the server's address.
    """
    from xar_agent.cli.models import fetched

    if choice is not None and choice.kind == "local":
        fetched(live, choice.name.removeprefix("local/"))
    elif choice is not None and choice.api_base:
        reach(choice.api_base)


def reach(url: str) -> None:
    """Connect once: the retries of a real request would make a wrong address cost half a minute.

    Raises:
        ModelUnavailable: nothing listens there.
    """
    parts = urlsplit(url)
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname or ""):
        return  # the requests will go through the proxy, and it alone can tell
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except OSError as error:
        hint = "start it, correct its address (OPENAI_BASE_URL or api_base), or name another model with --model"
        raise ModelUnavailable(f"no server answers at {url}: {error.strerror or error}", hint) from error
