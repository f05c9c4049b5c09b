"""What dead drivers have left, of every room: what sandboxes left, and the checkouts of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from xar_agent.jobs.lock import is_active, take_lock
from xar_agent.jobs.runs import RUN_FILE
from xar_agent.sandbox import files
from xar_agent.sandbox.clean import FINDERS, Finder, Leftover, stray_containers

SCRATCH = "scratch"


def finders(runs_dir: Path, *, engine: bool = True) -> tuple[Finder, ...]:
    """Everything that looks, in the order of removal; without ``engine`` no container engine is asked."""
    asked = tuple(finder for finder in FINDERS if engine or finder is not stray_containers)
    return (*asked, partial(stray_scratch, runs_dir))


def stray_scratch(runs_dir: Path) -> Iterator[Leftover]:
    """Checkouts and sockets of runs that nobody works on; never what a run has recorded."""
    for record in sorted(runs_dir.glob(f"*/{RUN_FILE}")):
        scratch = record.parent / SCRATCH
        if scratch.is_symlink() or not scratch.is_dir() or is_active(record.parent) or not any(scratch.iterdir()):
            continue
        if scratch.stat().st_uid == os.geteuid():
            yield Leftover("scratch", str(scratch), "no driver holds its run", partial(remove_scratch, record.parent))


def remove_scratch(run: Path) -> None:
    """Empty a run's scratch folder while nobody can begin to work on the run.

    Raises:
        UserError: somebody works on it by now.
    """
    lock = take_lock(run)
    try:
        files.remove_tree(run / SCRATCH)
    finally:
        os.close(lock)
