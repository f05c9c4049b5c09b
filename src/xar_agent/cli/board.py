"""A batch while it runs: a table that is redrawn on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from xar_agent.analysis.text import duration, one_line
from xar_agent.cli.terminal import facts_grid, is_live, listing

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live as RichLive

    from xar_agent.agent.types import Idea
    from xar_agent.cli.live import Live
    from xar_agent.envs.spec import Baseline
    from xar_agent.population.evolve import Progress
    from xar_agent.population.types import Outcome

REDRAWS_A_SECOND = 4
OTHER_COLUMNS = 60
MIN_IDEA_COLUMNS = 20
SUMMARY_S = 60.0
"""Between two summary lines where nothing can be redrawn."""


@dataclass(slots=True)
class Row:
    """One idea at work."""

    idea: Idea
    stage: str = "begins"
    share: float | None = None
    """Of its training."""
    loss: float | None = None
    """The candidate's own word."""
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Tally:
    """Results so far."""

    n_planned: int
    n_done: int = 0
    n_valid: int = 0
    n_same: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    best: Outcome | None = None

    def add(self, outcome: Outcome) -> None:
        """Count one result."""
        self.n_done += 1
        self.n_valid += outcome.valid
        self.n_same += bool(outcome.same_as)
        if outcome.failure is not None:
            self.failures[str(outcome.failure)] += 1
        if outcome.valid and (self.best is None or (outcome.gain or 0) > (self.best.gain or 0)):
            self.best = outcome


class Board:
    """What a person sees. Usable from any thread."""

    def __init__(
        self,
        live: Live,
        tally: Tally,
        *,
        epochs: int,
        baseline: Baseline | None,
        spent: Callable[[], str],
    ) -> None:
        """``spent`` tells what was spent against what may be."""
        self._live = live
        self._tally = tally
        self._epochs = epochs
        self._baseline = baseline
        self._spent = spent
        self._rows: dict[str, Row] = {}
        self._epoch = 0
        self._note = ""
        self._turn = threading.RLock()
        self._drawn: RichLive | None = None
        self._said_at = time.monotonic()

    @property
    def console(self) -> Console:
        """Where it is shown."""
        return self._live.console

    def take_up(self, outcomes: Sequence[Outcome]) -> None:
        """Count the results of earlier commands."""
        for outcome in outcomes:
            self._tally.add(outcome)

    def progress(self, event: Progress) -> None:
        """Something happened in the loop."""
        with self._turn:
            self._epoch = max(self._epoch, event.epoch)
            self._note = f"asking for {event.count} ideas" if event.kind == "proposing" else ""
            if event.kind == "proposing":
                self._live.line("ideas", f"epoch {event.epoch + 1} of {self._epochs}: {self._note}")
            elif event.kind == "started" and event.idea is not None:
                self._rows[event.idea.id] = Row(event.idea)
                self._live.line("idea", f"{event.idea.id}  {one_line(event.idea.text, 200)}")
            elif event.kind == "again" and event.idea is not None:
                self._live.line("again", f"{event.idea.id}: the sandbox or the evaluator failed; once more", "yellow")
            elif event.kind == "finished" and event.outcome is not None:
                self._finished(event.outcome)
            self._redraw()

    def _finished(self, outcome: Outcome) -> None:
        self._rows.pop(outcome.idea.id, None)
        self._tally.add(outcome)
        text, style = outcome_text(outcome, self._baseline)
        self._live.line("result", f"{outcome.idea.id}  {text}", style)
        if not is_live(self.console) and time.monotonic() - self._said_at >= SUMMARY_S:
            self._said_at = time.monotonic()
            for label, value in self.facts():
                self._live.line(label, value)

    def event(self, idea: Idea, event: Any) -> None:
        """Something happened to one idea."""
        from xar_agent.agent.events import StepEvent
        from xar_agent.jobs.types import SmokeReport
        from xar_agent.jobs.worker import JobEvent

        with self._turn:
            row = self._rows.setdefault(idea.id, Row(idea))
            if isinstance(event, StepEvent):
                row.stage = f"step {event.step}: {one_line(event.tool, 20)}"
            elif isinstance(event, SmokeReport):
                row.stage = "smoke test passed" if event.passed else "smoke test failed"
            elif isinstance(event, JobEvent):
                self._job(row, event)
            self._redraw()

    def _job(self, row: Row, event: Any) -> None:
        if event.kind == "done":
            row.share, row.stage = None, "done"
            return
        row.stage = f"scoring, seed {event.seed}" if event.kind == "evaluating" else f"training, seed {event.seed}"
        row.share = min(event.used / event.budget, 1.0) if event.budget else None
        row.loss = event.loss if event.loss is not None else row.loss

    def note(self, text: str, style: str = "") -> None:
        """A line that stays."""
        with self._turn:
            self._live.line("budget", text, style)

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what holds for the whole run."""
        tally = self._tally
        same = f", {tally.n_same} came to the same code as another" if tally.n_same else ""
        done = f"{tally.n_done} of {tally.n_planned} ideas, {tally.n_valid} with a valid score{same}"
        rows = [("epoch", f"{self._epoch + 1} of {self._epochs}: {done}")]
        if tally.best is not None:
            text, _ = outcome_text(tally.best, self._baseline)
            rows.append(("best", f"{tally.best.idea.id}  {text}"))
        if tally.failures:
            rows.append(("failures", ", ".join(f"{kind} {n}" for kind, n in tally.failures.most_common())))
        return [*rows, ("spent", self._spent())]

    def render(self) -> RenderableType:
        """The table as it is now."""
        from rich.console import Group
        from rich.text import Text

        with self._turn:
            table = listing("at work", "stage", "done", "loss", "for", "idea")
            for row in self._rows.values():
                share = f"{row.share:.0%}" if row.share is not None else ""
                loss = f"{row.loss:.3f}" if row.loss is not None else ""
                took = duration(time.monotonic() - row.since)
                room = max(self.console.width - OTHER_COLUMNS, MIN_IDEA_COLUMNS)
                table.add_row(row.idea.id, row.stage, share, loss, took, Text(one_line(row.idea.text, room)))
            parts: list[RenderableType] = [facts_grid(self.facts())]
            if self._rows:
                parts.append(table)
            if self._note:
                parts.append(Text(self._note, style="dim"))
            return Group(Text(""), *parts)

    def _redraw(self) -> None:
        if self._drawn is None and is_live(self.console):
            from rich.live import Live as RichLive

            self._drawn = RichLive(
                get_renderable=self.render,
                console=self.console,
                refresh_per_second=REDRAWS_A_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._drawn.start()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not under the lock: the drawing thread may be waiting for it, and is waited for here.
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None


def outcome_text(outcome: Outcome, baseline: Baseline | None) -> tuple[str, str]:
    """One result for a person, and its style."""
    from xar_agent.cli.table import VERDICT_STYLES

    score = outcome.score
    if outcome.same_as:
        return f"came to the same code as {outcome.same_as}: not trained again", "dim"
    if not outcome.valid or score is None or score.mean is None:
        kind = f"{outcome.failure}: " if outcome.failure else ""
        return f"no valid score: {kind}{one_line(outcome.reason, 160)}", "red"
    interval = f" [{score.lo:.4f}, {score.hi:.4f}]" if score.lo is not None and score.hi is not None else ""
    in_sd = f" = {outcome.gain / baseline.sd:+.1f} sd" if baseline and baseline.sd and outcome.gain is not None else ""
    gain = f", gain {outcome.gain:+.4f}{in_sd}" if outcome.gain is not None else ""
    words = score.verdict.replace("_", " ")
    return f"{score.mean:.4f}{interval} (n = {score.n}){gain}: {words}", VERDICT_STYLES[score.verdict]
