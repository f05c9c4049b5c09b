"""Write a result's card when its full runs have ended, from what the run has on record."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import xar_agent
from xar_agent.envs.spec import Baseline
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.card import (
    FILE,
    FORMAT,
    HIDDEN_FILE,
    Card,
    CardCost,
    CardEnv,
    CardMadeWith,
    CardScore,
    with_digest,
)
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Evaluation, Fidelity, Job, Score
from xar_agent.redact import redact
from xar_agent.sandbox.protocol import Patch
from xar_agent.store import write_json

TORCH = re.compile(r"\btorch ([\w.+]+)")
OF_SEARCH = "95 % prediction interval of the mean of as many baseline runs, moved to this score"


def keep_card(
    store: RunStore,
    bench: Bench,
    jobs: Sequence[Job],
    patch: Patch,
    found: CardScore,
    *,
    baseline: Baseline | None,
    fidelity: Fidelity,
) -> Path | None:
    """Write the card of a patch's full runs beside the patch; None when not every seed has a valid score.

    Raises:
        StoreError: it cannot be written.
    """
    evaluations = tuple(job.evaluation for job in jobs if job.evaluation is not None and job.evaluation.valid)
    if not jobs or len(evaluations) < len(jobs) or any(e.value is None for e in evaluations):
        return None
    spec = jobs[0].spec
    text = next((idea.text for idea in store.ideas() if idea.id == spec.idea_id), "")
    card = Card(
        format=FORMAT,
        made_at=time.time(),
        idea_id=spec.idea_id,
        idea=redact(text),
        patch=patch,
        tree=spec.tree,
        env=env_of(bench, evaluations[0], spec.split),
        evaluations=evaluations,
        score=found,
        baseline=baseline,
        fidelity=fidelity,
        made_with=made_with(bench, evaluations[0]),
        cost=cost_of(store, bench, spec.idea_id, evaluations),
    )
    path = store.dir / "impl" / spec.idea_id / (HIDDEN_FILE if spec.split == "hidden" else FILE)
    write_json(path, with_digest(json.loads(dump_card(card))))
    return path


def dump_card(card: Card) -> str:
    """The card as JSON text; the baseline is a model of its own kind."""
    plain = asdict(card)
    plain["baseline"] = card.baseline.model_dump() if card.baseline else None
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def env_of(bench: Bench, one: Evaluation, split: Literal["val", "hidden"]) -> CardEnv:
    """Name, versions and sizes."""
    return CardEnv(
        name=bench.env.name,
        preset=bench.preset_name,
        split=split,
        metric=one.metric,
        direction=one.direction,
        clock=bench.preset.clock,
        budget=bench.preset.budget,
        corpus=one.corpus,
        data_sha256=one.data_sha256,
        env_version=one.env_version,
        evaluator_version=one.evaluator_version,
    )


def made_with(bench: Bench, one: Evaluation) -> CardMadeWith:
    """Machine, versions and sandbox."""
    torch = TORCH.search(one.machine)
    return CardMadeWith(one.machine, torch[1] if torch else "", bench.backend, bench.image, xar_agent.__version__)


def cost_of(store: RunStore, bench: Bench, idea_id: str, evaluations: Sequence[Evaluation]) -> CardCost:
    """The idea's account, and the time of the devices."""
    rows = store.spend(idea_id)
    prices = [row.cost_usd for row in rows]
    known = [price for price in prices if price is not None]
    return CardCost(
        usd=math.fsum(known) if len(known) == len(prices) else None,
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        cpu_s=math.fsum(row.cpu_s for row in rows),
        gpu_s=bench.preset.gpus * math.fsum(e.train_wall_s for e in evaluations),
    )


def score_on_card(found: Score) -> CardScore | None:
    """A search's score; None when there is none."""
    if found.mean is None:
        return None
    figures = (found.n, found.baseline_mean, found.delta, found.verdict)
    return CardScore(found.mean, found.lo, found.hi, OF_SEARCH, *figures)
