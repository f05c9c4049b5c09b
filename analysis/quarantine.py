"""Results that failed a check: kept with their value and their reasons, listed, and never ranked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from xar_agent.jobs.types import Evaluation
from xar_agent.population.archive import Candidate


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One check that one seed of one candidate failed."""

    idea_id: str
    text: str
    """Of the idea."""
    seed: int
    value: float | None
    """What the evaluator found all the same; None when it could not be computed."""
    check: str
    reason: str


def quarantined(candidates: Iterable[Candidate]) -> tuple[Quarantined, ...]:
    """Every failed check of these candidates, in their order."""
    return tuple(
        Quarantined(one.idea.id, one.idea.text, evaluation.seed, evaluation.value, check, reason)
        for one in candidates
        for evaluation in one.evaluations
        for check, reason in failed_checks(evaluation)
    )


def failed_checks(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Name and reason of each check that failed; records without checks have their reasons."""
    if evaluation.valid:
        return
    failed = [(check.name, check.reason) for check in evaluation.checks if not check.passed]
    if failed:
        yield from failed
        return
    for reason in evaluation.reasons or ("the evaluator found no value",):
        name, colon, rest = reason.partition(": ")
        yield (name, rest) if colon and " " not in name else ("", reason)


def quarantined_json(found: Quarantined) -> dict[str, Any]:
    """One row."""
    return {
        "idea_id": found.idea_id,
        "text": found.text,
        "seed": found.seed,
        "value": found.value,
        "check": found.check or None,
        "reason": found.reason,
    }


def flags_of(evaluations: Iterable[Evaluation]) -> tuple[str, ...]:
    """What a person should look at, each kind once."""
    kinds: dict[str, str] = {}
    for evaluation in evaluations:
        for flag in evaluation.flags:
            kinds.setdefault(flag.partition(":")[0], flag)
    return tuple(kinds.values())


def corpora_of(evaluations: Iterable[Evaluation]) -> tuple[str, ...]:
    """Names of the data that scores belong to; records of earlier releases have none."""
    return tuple(sorted({evaluation.corpus for evaluation in evaluations if evaluation.corpus}))
