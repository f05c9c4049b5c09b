"""Does a card's patch, trained again, give what the card says? The rule was fixed beforehand: see docs/scores.md.

On the machine and versions of the card, with a budget of tokens, the same seed gives the same bits: each value must
come out again. Elsewhere only the means can be compared, within what chance allows.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xar_agent.envs.spec import Baseline, EnvSpec
from xar_agent.errors import EvaluationError, UserError
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.card import Card
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.measured import wait_for
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import CONFIDENCE, student_t_quantile
from xar_agent.jobs.types import FailureClass, Job, JobSpec
from xar_agent.jobs.worker import JobEvent

TOLERANCE = 1e-6
"""In the metric's unit; sums in another order differ by 1e-7."""


@dataclass(frozen=True, slots=True)
class Again:
    """One seed of the card, trained again."""

    seed: int
    on_card: float
    here: float | None
    """None: it has no valid score here."""
    reason: str = ""
    """Why not."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A card against what was measured again."""

    again: tuple[Again, ...]
    same_place: bool
    """The same machine and versions, and a budget that time does not touch: values must be the same."""
    differences: tuple[str, ...]
    """Why values need not be the same, in words."""
    machine: str
    """Where it was measured again."""
    mean_on_card: float
    """Over all of the card's seeds; of those that were trained again where values must be the same."""
    mean_here: float | None
    allowed: float
    """How far the means, or each value at the same place, may be apart."""
    reproduced: bool

    @property
    def difference(self) -> float | None:
        """Of the means."""
        return None if self.mean_here is None else self.mean_here - self.mean_on_card


def check_env(card: Card, env: EnvSpec) -> None:
    """Refuse an environment that is not the card's.

    Raises:
        UserError: another version of its files; names which.
    """
    check_same("environment", card.env.env_version, env.version)
    if card.env.preset not in env.file.preset:
        raise UserError(f"the environment {env.name} has no preset {card.env.preset!r}", cannot_hint(card))
    env = env.at(card.env.preset)
    check_same("evaluator", card.env.evaluator_version, env.evaluator_version)
    preset, on_card = env.preset(card.env.preset), card.env
    check_same("metric", f"{on_card.metric}, {on_card.direction}", f"{env.metric}, {env.direction}")
    check_same("budget", f"{on_card.budget} {on_card.clock}", f"{preset.budget} {preset.clock}")


def check_bench(card: Card, bench: Bench) -> str:
    """The card's tree in the run's store, when data and base are the card's.

    Raises:
        UserError: other data or another base; names which. PatchRefused: the patch does not apply.
    """
    check_same("data set", card.env.data_sha256, bench.data.sha256)
    check_same("base tree", card.patch.base, bench.base_tree)
    tree = bench.add_patch(card.patch)
    check_same("patched tree", card.tree, tree)
    return tree


def check_same(what: str, on_card: str, here: str) -> None:
    """Refuse files that are not the card's.

    Raises:
        UserError: they differ.
    """
    if on_card != here:
        problem = (
            f"the card cannot be verified with these files: the {what} is {here[:12]} here, {on_card[:12]} on the card"
        )
        raise UserError(problem, "use the release, environment and data that made it")


def cannot_hint(card: Card) -> str:
    """Which release made it."""
    return f"the card was made with xar-agent {card.made_with.xar_agent}"


def known_baseline(card: Card, bench: Bench) -> Baseline | None:
    """Whose spread the means are held against: the baseline known here, else the card's own, which is its word."""
    found = baseline_for(bench.env, bench.preset_name, card.env.split, bench.runtime) or card.baseline
    return found if found is not None and found.n >= 2 else None


def need_baseline(card: Card, baseline: Baseline | None) -> Baseline:
    """The baseline where means are compared.

    Raises:
        UserError: there is none.
    """
    if baseline is None:
        hint = f"measure one: xar-agent envs calibrate {card.env.name} --preset {card.env.preset}"
        raise UserError("the card has no baseline, so nobody knows how far chance takes its scores apart", hint)
    return baseline


def train_again(
    store: RunStore,
    bench: Bench,
    card: Card,
    seeds: Sequence[int],
    *,
    on_event: Callable[[JobEvent], None] | None = None,
    cancel: threading.Event | None = None,
) -> list[Job]:
    """The card's patch through the same jobs and checks, at its own seeds; its idea is on record.

    Raises:
        Interrupted: it was cancelled.
        EvaluationError: the house failed at a seed.
    """
    names = (store.name, card.idea_id, bench.env.name, bench.preset_name)
    specs = [JobSpec(*names, seed, card.patch, card.tree, card.env.split) for seed in seeds]
    with LocalEngine(store, bench) as engine:
        jobs = wait_for(engine, [engine.submit(spec).id for spec in specs], on_event, cancel)
    for job in jobs:
        if job.evaluation is None and (job.failure is None or job.failure.kind is FailureClass.INFRA):
            why = job.failure.reason if job.failure else "no result"
            raise EvaluationError(f"seed {job.spec.seed} could not be measured: {why}", "the same command goes on")
    return jobs


def compare_with_card(card: Card, jobs: Sequence[Job], baseline: Baseline | None) -> Verification:
    """The verdict.

    Args:
        card: what is claimed.
        jobs: seeds of the card, trained again.
        baseline: whose spread counts where only means can be compared; may be None where values can.

    Raises:
        UserError: only means can be compared, and there is no baseline.
    """
    on_card = {e.seed: e for e in card.evaluations}
    again = tuple(again_of(job, on_card[job.spec.seed].value) for job in jobs)
    machine = next((job.evaluation.machine for job in jobs if job.evaluation), "")
    differences = differences_of(card, machine) if machine else ()
    same_place = not differences
    here = [one.here for one in again if one.here is not None]
    mean_here = statistics.fmean(here) if len(here) == len(again) else None
    if same_place:
        mean_on_card, allowed = statistics.fmean(one.on_card for one in again), TOLERANCE
        reproduced = all(one.here is not None and abs(one.here - one.on_card) <= allowed for one in again)
    else:
        spread = need_baseline(card, baseline)
        if spread is card.baseline:
            differences = (*differences, "no baseline is known here, so what chance allows is the card's own word")
        mean_on_card, allowed = card.score.mean, half_width(spread, len(card.seeds), len(again))
        reproduced = mean_here is not None and abs(mean_here - mean_on_card) <= allowed
    return Verification(again, same_place, differences, machine, mean_on_card, mean_here, allowed, reproduced)


def differences_of(card: Card, machine: str) -> tuple[str, ...]:
    """Why the same seed need not give the same value."""
    found = []
    if card.env.clock != "tokens":
        found.append(f"the budget is in {card.env.clock}, so how far training comes depends on the machine")
    if any(evaluation.machine != machine for evaluation in card.evaluations):
        found.append(f"the card is of {card.made_with.machine}, this is {machine}")
    return tuple(found)


def half_width(baseline: Baseline, k: int, k_again: int) -> float:
    """Two-sided 95 % interval of the difference between means of so many runs with the baseline's spread."""
    t = student_t_quantile((1 + CONFIDENCE) / 2, baseline.n - 1)
    return t * baseline.sd * math.sqrt(1 / k + 1 / k_again)


def again_of(job: Job, on_card: float | None) -> Again:
    """One seed."""
    assert on_card is not None
    found = job.evaluation
    if found is not None and found.valid and found.value is not None:
        return Again(job.spec.seed, on_card, found.value)
    reasons = list(found.reasons) if found else []
    failed = f"{job.failure.kind}: {job.failure.reason}" if job.failure else "no value"
    return Again(job.spec.seed, on_card, None, next(iter(reasons), failed))


def verification_json(found: Verification) -> dict[str, Any]:
    """The figures."""
    seeds = [
        {"seed": one.seed, "card": one.on_card, "here": one.here, "reason": one.reason or None} for one in found.again
    ]
    return {
        "verdict": "reproduced" if found.reproduced else "not reproduced",
        "rule": "same values" if found.same_place else "means within chance",
        "differences": list(found.differences),
        "allowed": found.allowed,
        "seeds": seeds,
        "mean": {"card": found.mean_on_card, "here": found.mean_here, "difference": found.difference},
        "machine": found.machine,
    }
