"""Which candidates of a run are worth a look at the hidden split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xar_agent.errors import UnknownName, UserError, XarError
from xar_agent.population.archive import Candidate, rank


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is looked at, and what a person should know about the choice."""

    candidates: tuple[Candidate, ...]
    warnings: tuple[str, ...]


def choose(candidates: Sequence[Candidate], *, idea_id: str | None = None, top: int = 1) -> Chosen:
    """The candidate of that id, or the best ones: those that the search called better before all others.

    Args:
        candidates: of a run.
        idea_id: its id, or the beginning of it; None takes the best.
        top: how many of the best.

    Raises:
        UnknownName: no candidate has that id, or several begin so.
        UserError: the candidate of that id cannot be confirmed.
        XarError: no candidate of the run can be.
    """
    if idea_id is not None:
        return Chosen((named(candidates, idea_id),), ())
    fit = sorted((one for one in candidates if not why_unfit(one)), key=better_first)
    different = list({one.jobs[-1].spec.tree: one for one in reversed(fit)}.values())[::-1]
    best = different[:top]
    if not best:
        raise XarError("no candidate of this run has a valid score and an effect", "see: xar-agent runs show")
    warnings = []
    if len(best) < top:
        warnings.append(f"only {len(best)} of the {top} candidates that were asked for can be confirmed")
    if weak := [one.idea.id for one in best if one.score and one.score.verdict != "better"]:
        warnings.append(f"the search did not call better than the baseline: {', '.join(weak)}")
    return Chosen(tuple(best), tuple(warnings))


def named(candidates: Sequence[Candidate], idea_id: str) -> Candidate:
    """The candidate of that id, if it can be confirmed."""
    found = [one for one in candidates if one.idea.id.startswith(idea_id)]
    exact = [one for one in found if one.idea.id == idea_id] or found
    if len(exact) != 1:
        problem = f"{len(exact)} ideas begin with {idea_id!r}" if exact else f"no idea {idea_id!r} in this run"
        raise UnknownName(problem, f"its ideas: {', '.join(one.idea.id for one in candidates[:10])}")
    if reason := why_unfit(exact[0]):
        raise UserError(f"idea {exact[0].idea.id} cannot be confirmed: {reason}")
    return exact[0]


def why_unfit(candidate: Candidate) -> str:
    """Why a candidate is not worth a look; empty when it is."""
    found = candidate.score
    if not candidate.jobs or found is None or found.mean is None:
        return candidate.failure or "it has no score"
    if found.verdict == "invalid":
        return candidate.failure or "its score is not valid"
    return "its patch has no effect" if candidate.fidelity == "no_effect" else ""


def better_first(candidate: Candidate) -> tuple[bool, tuple[int, float]]:
    """Sort key: those that the search called better, then the others; each best first."""
    assert candidate.score is not None
    return (candidate.score.verdict != "better", rank(candidate))
