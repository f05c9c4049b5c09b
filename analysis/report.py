"""What a run came to, as values: its candidates, how many became a result, why others did not, and what it cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.analysis.quarantine import Quarantined, corpora_of, quarantined
from xar_agent.analysis.report_failures import Reason, is_open, reason_of, same_trees
from xar_agent.envs.spec import Baseline
from xar_agent.jobs.lock import is_active
from xar_agent.jobs.records import Spend
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Evaluation
from xar_agent.population.archive import Candidate, read_candidates
from xar_agent.population.decisions import DecisionLog, Result

if TYPE_CHECKING:
    from xar_agent.jobs.confirm import Confirmation


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate in a report."""

    candidate: Candidate
    open: bool
    """No result yet: its agent or its jobs are at work, or were cut off."""
    same_as: str
    """Id of the earlier idea with the same tree; empty for the first one."""
    reason: Reason | None
    """Why it has no valid score; None when it has one, is open, or repeats another."""
    confirmations: tuple[Confirmation, ...]

    @property
    def id(self) -> str:
        """Of the idea."""
        return self.candidate.idea.id

    @property
    def mean(self) -> float | None:
        """Over its seeds, when it has a score that counts."""
        found = self.candidate.score
        if self.open or self.same_as or found is None or found.verdict == "invalid":
            return None
        return found.mean

    @property
    def valid(self) -> bool:
        """It has a score of its own that counts."""
        return self.mean is not None

    @property
    def gain(self) -> float | None:
        """How far its mean is on the good side of the baseline at its own compute, in the metric's unit."""
        return self.candidate.gain if self.valid else None

    @property
    def gain_sd(self) -> float | None:
        """The gain in standard deviations of one baseline run."""
        baseline = self.candidate.baseline
        return self.gain / baseline.sd if self.gain is not None and baseline and baseline.sd > 0 else None

    @property
    def confirmed(self) -> bool:
        """Fresh seeds on the hidden split found it better."""
        return any(look.verdict == "confirmed" for look in self.confirmations)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a run cost."""

    cost_usd: float
    """Of the calls whose price is known."""
    unpriced: int
    """Entries of the account whose price is unknown."""
    input_tokens: int
    output_tokens: int
    cpu_s: float
    job_wall_s: float
    """Summed over jobs."""
    elapsed_s: float
    """From the run's beginning to its latest result, or until now while it is under way; pauses included."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything that a report shows."""

    name: str
    dir: Path
    record: Mapping[str, Any]
    """run.json."""
    active: bool
    baseline: Baseline | None
    """The one that the latest scores were compared with."""
    entries: tuple[Entry, ...]
    """Valid ones first, best first."""
    in_order: tuple[Entry, ...]
    """Those with a result, in the order in which the results came."""
    bill: Bill

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the run was asked to do."""
        found = self.record.get("settings")
        return found if isinstance(found, dict) else {}

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Of all candidates, best first."""
        return tuple(e for entry in self.entries for e in entry.candidate.evaluations)

    @property
    def metric(self) -> str:
        """Its name; "score" before there is any."""
        return next((e.metric for e in self.evaluations), "score")

    @property
    def direction(self) -> str:
        """``min`` or ``max``; "min" before there is any score."""
        return next((e.direction for e in self.evaluations), "min")

    @property
    def machines(self) -> tuple[str, ...]:
        """Where the scores were measured."""
        return tuple(sorted({e.machine for e in self.evaluations}))

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the data that the scores belong to."""
        return corpora_of(self.evaluations)

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Results that failed a check, with their values."""
        return quarantined(entry.candidate for entry in self.entries)

    @property
    def valid(self) -> tuple[Entry, ...]:
        """Best first."""
        return tuple(entry for entry in self.entries if entry.valid)

    @property
    def best(self) -> Entry | None:
        """The best mean; its verdict says whether that means anything."""
        return next(iter(self.valid), None)

    @property
    def confirmations(self) -> tuple[Confirmation, ...]:
        """Of all candidates."""
        return tuple(look for entry in self.entries for look in entry.confirmations)

    @property
    def seeds(self) -> int:
        """How many seeds a valid candidate has, at the least; 1 without any."""
        return min((entry.candidate.score.n for entry in self.valid if entry.candidate.score), default=1)


def read_report(store: RunStore) -> RunReport:
    """Read one run, finished or under way.

    Raises:
        StoreError: its records cannot be read.
    """
    record, active = store.record, is_active(store.dir)
    candidates, times = read_candidates(store), store.result_times()
    log = DecisionLog(store.dir)
    results = {result.idea_id: result for result in log.results}
    planned = frozenset(idea.id for idea in log.ideas)
    looks = confirmations_of(store.dir)
    repeats = same_trees(store.ideas(), candidates)
    entries = [entry_of(store.dir, one, results.get(one.idea.id), planned, repeats, looks) for one in candidates]
    order = {idea_id: place for place, idea_id in enumerate(results)}
    ended = [entry for entry in entries if not entry.open]
    ended.sort(key=lambda entry: (order.get(entry.id, len(order)), times.get(entry.id, math.inf)))
    baselines = [entry.candidate.baseline for entry in ended if entry.candidate.baseline]
    began = float(record.get("created_at") or 0)
    until = time.time() if active else max(times.values(), default=began)
    return RunReport(
        name=store.name,
        dir=store.dir,
        record=record,
        active=active,
        baseline=baselines[-1] if baselines else None,
        entries=tuple(sorted(entries, key=lambda entry: not entry.valid)),
        in_order=tuple(ended),
        bill=bill_of(store.spend(), until - began),
    )


def entry_of(
    run_dir: Path,
    candidate: Candidate,
    result: Result | None,
    planned: Set[str],
    repeats: Mapping[str, str],
    looks: Sequence[Confirmation],
) -> Entry:
    """One candidate with its reason and its confirmations; a planned one without a result will be gone on with."""
    same_as = (result.same_as if result else "") or repeats.get(candidate.idea.id, "")
    cut_off = candidate.idea.id in planned and candidate.score is None
    still = result is None and not same_as and (cut_off or is_open(candidate, run_dir))
    reason = None if still or same_as else reason_of(candidate, run_dir, result)
    mine = tuple(look for look in looks if look.idea_id == candidate.idea.id)
    return Entry(candidate, still, same_as, reason, mine)


def confirmations_of(run_dir: Path) -> tuple[Confirmation, ...]:
    """The looks at the hidden split, oldest first."""
    if not any((run_dir / "confirm").glob("*.json")):
        return ()
    from xar_agent.jobs.confirm import read_confirmations

    return read_confirmations(run_dir)


def bill_of(spend: Sequence[Spend], elapsed_s: float) -> Bill:
    """The account added up."""
    return Bill(
        cost_usd=math.fsum(row.cost_usd for row in spend if row.cost_usd is not None),
        unpriced=sum(row.cost_usd is None for row in spend),
        input_tokens=sum(row.input_tokens for row in spend),
        output_tokens=sum(row.output_tokens for row in spend),
        cpu_s=math.fsum(row.cpu_s for row in spend),
        job_wall_s=math.fsum(row.wall_s for row in spend),
        elapsed_s=max(0.0, elapsed_s),
    )
