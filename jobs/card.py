"""A result as one file: everything that somebody else needs in order to measure it again, and what was found.

The digest over the whole card shows that it was changed by accident or by hand. It is no signature: whoever edits a
card can compute it anew. What holds a card to its word is ``xar-agent verify``, which trains its patch again.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xar_agent.envs.spec import Baseline
from xar_agent.errors import StoreError, UserError
from xar_agent.jobs.records import load
from xar_agent.jobs.scoring import score, with_fidelity
from xar_agent.jobs.types import Evaluation, Fidelity
from xar_agent.sandbox.protocol import Patch

FORMAT = 1
FILE = "card.json"
HIDDEN_FILE = "card.hidden.json"
"""Of a confirmation, whose scores are those of the hidden split."""
MAX_CARD_BYTES = 16 << 20
SAME_MEAN = 1e-9
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a folder that is made: no path."""
MAX_FIGURE = 1e100
MAX_SEED = 1 << 63
MAX_BASELINE_SEEDS = 100_000
NO_CARD = "a card is the card.json that implement, evaluate or confirm writes beside the patch"


@dataclass(frozen=True, slots=True)
class CardEnv:
    """What was measured with."""

    name: str
    preset: str
    split: Literal["val", "hidden"]
    metric: str
    direction: Literal["min", "max"]
    clock: str
    budget: int
    """In units of the clock."""
    corpus: str
    data_sha256: str
    env_version: str
    evaluator_version: str


@dataclass(frozen=True, slots=True)
class CardScore:
    """What the seeds came to."""

    mean: float
    lo: float | None
    hi: float | None
    interval: str
    """What lo and hi are."""
    n: int
    baseline_mean: float | None
    """Of the baseline at the candidate's own compute."""
    delta: float | None
    verdict: str
    p: float | None = None
    """Of a confirmation: one-sided."""
    p_corrected: float | None = None
    """Times the looks of that run."""
    looks: int | None = None


@dataclass(frozen=True, slots=True)
class CardMadeWith:
    """Where and with what."""

    machine: str
    torch: str
    """Empty where the programs have none."""
    sandbox: str
    image: str | None
    xar_agent: str


@dataclass(frozen=True, slots=True)
class CardCost:
    """What it took, from the idea to the score."""

    usd: float | None
    """None when a price is unknown."""
    input_tokens: int
    output_tokens: int
    cpu_s: float
    gpu_s: float


@dataclass(frozen=True, slots=True)
class Card:
    """One scored result."""

    format: int
    made_at: float
    """Seconds since 1970."""
    idea_id: str
    idea: str
    patch: Patch
    tree: str
    env: CardEnv
    evaluations: tuple[Evaluation, ...]
    """One a seed, with its checks by name, its flags and what it took."""
    score: CardScore
    baseline: Baseline | None
    fidelity: Fidelity
    made_with: CardMadeWith
    cost: CardCost
    digest: str = ""
    """sha256 of everything else."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """In order."""
        return tuple(evaluation.seed for evaluation in self.evaluations)

    @property
    def values(self) -> tuple[float, ...]:
        """One a seed."""
        return tuple(e.value for e in self.evaluations if e.value is not None)


def with_digest(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its digest as its last key."""
    plain = {key: value for key, value in record.items() if key != "digest"}
    return {**plain, "digest": digest_of(plain)}


def digest_of(record: dict[str, Any]) -> str:
    """sha256 over a record without its digest, in one fixed spelling.

    Raises:
        ValueError: it holds a number that is none.
    """
    plain = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_card(path: Path) -> Card:
    """A card that is whole and does not contradict itself.

    Raises:
        UserError: it is none; the message says what is wrong with it.
    """
    record = read_record(path)
    if record.get("format") != FORMAT:
        raise UserError(f"{path} has card format {record.get('format')!r}; this release reads {FORMAT}", NO_CARD)
    try:
        whole = record.get("digest") == digest_of(record)
        card = load(Card, json.dumps(record))
    except (StoreError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a result card: {error}", NO_CARD) from error
    if not whole:
        raise UserError(f"{path} was changed after it was made: its digest does not fit", "ask for the original")
    if problem := nonsense(card):
        raise UserError(f"{path} is not a result card: {problem}", NO_CARD)
    if problem := contradiction(card):
        raise UserError(f"{path} contradicts itself: {problem}", "ask for the original")
    return card


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a card's file.

    Raises:
        UserError: there is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CARD_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the card {path}: {error.strerror}", NO_CARD) from error
    try:
        record = json.loads(content) if len(content) <= MAX_CARD_BYTES else None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}", NO_CARD) from error
    if not isinstance(record, dict):
        raise UserError(f"{path} does not hold a result card", NO_CARD)
    return record


def nonsense(card: Card) -> str:
    """A name or a figure that nothing of ours has written, and that is not to be worked with; empty without one.

    The environment's name must be one that is looked up: a path could lead to programs that came with the card.
    """
    if not PLAIN_NAME.fullmatch(card.idea_id):
        return "idea_id is no plain name"
    if "/" in card.env.name:
        return "env.name is a path"
    if not all(0 <= seed < MAX_SEED for seed in card.seeds):
        return "a seed is out of range"
    figures = [card.score.mean, *card.values, *(e.compute_ratio for e in card.evaluations)]
    if any(abs(figure) > MAX_FIGURE for figure in figures):
        return "a figure is out of range"
    return "the baseline is none" if card.baseline is not None and not is_sound(card.baseline) else ""


def is_sound(baseline: Baseline) -> bool:
    """Its figures can be reckoned with."""
    points = baseline.curve
    return (
        1 <= baseline.n <= MAX_BASELINE_SEEDS
        and 0 <= baseline.sd <= MAX_FIGURE
        and abs(baseline.mean) <= MAX_FIGURE
        and baseline.cpu_s > 0
        and all(point.n >= 1 and point.compute > 0 and abs(point.mean) <= MAX_FIGURE for point in points)
        and len({point.compute for point in points}) == len(points)
    )


def contradiction(card: Card) -> str:
    """What in a card does not follow from the rest of it; empty when all does."""
    if hashlib.sha256(card.patch.diff.encode()).hexdigest() != card.patch.sha256:
        return "the patch's sha256 is another one"
    if not card.evaluations or len(set(card.seeds)) < len(card.seeds) or len(card.values) < len(card.seeds):
        return "it has not one value for each of its seeds"
    refused = [f"{check.name} at seed {e.seed}" for e in card.evaluations for check in e.checks if not check.passed]
    if refused or not all(e.valid for e in card.evaluations):
        return f"a check failed: {next(iter(refused), 'not valid')}"
    if abs(card.score.mean - statistics.fmean(card.values)) > SAME_MEAN:
        return "the mean is not that of its values"
    if card.env.split == "val":
        verdict = with_fidelity(score(card.evaluations, card.baseline, card.env.direction), card.fidelity).verdict
        if verdict != card.score.verdict:
            return f"its verdict is {card.score.verdict!r}, its values give {verdict!r}"
    return ""
