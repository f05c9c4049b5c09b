"""Looks at the hidden split: each is on record before its result is known, so that none can be forgotten."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from xar_agent.envs.spec import Baseline
from xar_agent.errors import StoreError, UserError
from xar_agent.jobs.baseline import CALIBRATION_SEED, HIDDEN_CALIBRATION_SEED
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Fidelity
from xar_agent.store import store_errors, write_json

FOLDER = "confirm"
MIN_SEEDS = 3
"""Two give an interval that is four times as wide as three do."""
MAX_SEEDS = 100
MAX_CALIBRATION_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found: everything that its verdict is derived from."""

    direction: Literal["min", "max"]
    values: tuple[float | None, ...]
    """One a seed, on the hidden split; None where there is none."""
    reasons: tuple[str, ...]
    """Why it is not valid; empty when every seed is."""
    compute_ratio: float
    """Mean over the seeds that were scored; 0 when none was."""
    fidelity: Fidelity
    baseline: Baseline
    """Of the hidden split, as it was then."""


@dataclass(frozen=True, slots=True)
class Look:
    """One candidate on the hidden split."""

    number: int
    """Counts the looks of a run from 1."""
    batch: int
    """Number of the first look of those that were begun together."""
    idea_id: str
    tree: str
    patch_sha256: str
    seeds: tuple[int, ...]
    begun_at: float
    """Seconds since 1970."""
    finding: Finding | None = None
    """None while it is under way, or was interrupted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A candidate that somebody wants to look at."""

    idea_id: str
    tree: str
    patch_sha256: str


LOOK = TypeAdapter(Look)


def check_seeds(n: int) -> None:
    """Refuse a number of seeds that cannot carry a claim.

    Raises:
        UserError: it is too small or far too large.
    """
    if n < MIN_SEEDS:
        hint = f"use --seeds {MIN_SEEDS} or more: fewer say next to nothing about the spread"
        raise UserError(f"confirm needs at least {MIN_SEEDS} seeds, not {n}", hint)
    if n > MAX_SEEDS:
        raise UserError(f"confirm takes at most {MAX_SEEDS} seeds, not {n}")


def read_looks(run_dir: Path) -> tuple[Look, ...]:
    """All looks of a run, in order.

    Raises:
        StoreError: one is damaged.
    """
    paths = (run_dir / FOLDER).glob("[0-9]*.json")
    return tuple(sorted((read_look(path) for path in paths), key=lambda look: look.number))


def read_look(path: Path) -> Look:
    """One look's file."""
    with store_errors(path, "read"):
        text = path.read_text()
    try:
        return LOOK.validate_json(text)
    except ValidationError as error:
        raise StoreError(f"{path} cannot be read: {error.errors()[0]['msg']}") from error


def begin_looks(store: RunStore, wanted: Sequence[Wanted], n_seeds: int | None, default_seeds: int) -> list[Look]:
    """Put looks on record, in the order of the candidates; those that were cut off are gone on with instead.

    A look that ended, but was begun together with one that did not, is not begun again: its result stands.

    Args:
        store: the run, open for writing.
        wanted: the candidates.
        n_seeds: how many fresh seeds each gets; None takes the default, or what an interrupted look has.
        default_seeds: the default.

    Raises:
        UserError: an interrupted look has another number of seeds.
        StoreError: they cannot be recorded.
    """
    check_seeds(default_seeds if n_seeds is None else n_seeds)
    known = list(read_looks(store.dir))
    going_on = [unfinished(known, one) for one in wanted]
    check_same_seeds(going_on, n_seeds)
    # A batch of which only some looks were put on record stays one batch.
    batch = next((look.batch for look in going_on if look), len(known) + 1)
    found = []
    for one, look in zip(wanted, going_on, strict=True):
        if look is None:
            seeds = fresh_seeds(store, known, one.tree, default_seeds if n_seeds is None else n_seeds)
            look = Look(len(known) + 1, batch, one.idea_id, one.tree, one.patch_sha256, seeds, time.time())
            known.append(look)
            write_look(store, look)
        found.append(look)
    return found


def check_same_seeds(going_on: Sequence[Look | None], n_seeds: int | None) -> None:
    """Refuse before anything is on record: each recorded look makes all p-values of the run larger.

    Raises:
        UserError: a look that was cut off has another number of seeds.
    """
    for look in going_on:
        if look is not None and n_seeds is not None and n_seeds != len(look.seeds):
            problem = f"a look at {look.idea_id} with {len(look.seeds)} seeds was interrupted"
            raise UserError(problem, f"finish it first, with --seeds {len(look.seeds)}")


def unfinished(looks: Sequence[Look], one: Wanted) -> Look | None:
    """The candidate's look of a batch that was cut off."""
    cut_off = {look.batch for look in looks if look.finding is None}
    same = [look for look in looks if look.batch in cut_off and (look.idea_id, look.tree) == (one.idea_id, one.tree)]
    return same[-1] if same else None


def fresh_seeds(store: RunStore, looks: Sequence[Look], tree: str, n: int) -> tuple[int, ...]:
    """Seeds that nothing of this run and no calibration has used.

    They follow from the patched tree: nobody knows them before the patch is fixed, and asking again in another run
    gives the same ones, not another chance.
    """
    used = {job.spec.seed for job in store.jobs()} | {seed for look in looks for seed in look.seeds}
    for start in (CALIBRATION_SEED, HIDDEN_CALIBRATION_SEED):
        used.update(range(start, start + MAX_CALIBRATION_SEEDS))
    drawn = dict.fromkeys(seed_of(tree, i) for i in islice(count(), 10 * n + len(used)))
    return tuple(islice((seed for seed in drawn if seed not in used), n))


def seed_of(tree: str, number: int) -> int:
    """A seed below 2**31."""
    return int.from_bytes(hashlib.sha256(f"{tree}/{number}".encode()).digest()[:4], "big") >> 1


def end_look(store: RunStore, look: Look, finding: Finding) -> Look:
    """Record what was found.

    Raises:
        StoreError: it cannot be written.
    """
    ended = replace(look, finding=finding)
    write_look(store, ended)
    return ended


def write_look(store: RunStore, look: Look) -> None:
    """The look's file, whole or not at all."""
    write_json(store.dir / FOLDER / f"{look.number}.json", LOOK.dump_python(look, mode="json"))
