"""What looks at the hidden split came to: a small table for a person, one object for a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.cli.table import baseline_text, runs_dir_flag, shown
from xar_agent.errors import XarError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from xar_agent.cli.confirm import Subject
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.jobs.confirm import Confirmation

STYLES = {"confirmed": "bold green", "not_confirmed": "yellow", "invalid": "bold red"}
WORDS = {
    "confirmed": "confirmed: better than the baseline on fresh seeds and unseen text",
    "not_confirmed": "not confirmed: chance could explain the gain",
    "invalid": "invalid: not every seed has a valid score",
}


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What one command looked at."""

    env: EnvSpec
    preset: str
    run_dir: Path
    subjects: Mapping[int, Subject]
    """By the number of the look."""
    warnings: tuple[str, ...]
    duration_s: float
    error: XarError | None
    """What ended it early."""
    corpus: str = ""
    """Name of the data."""

    def card_of(self, found: Confirmation) -> Path | None:
        """The card of a look whose every seed is valid; a later look of the same idea takes its place."""
        from xar_agent.jobs.card import HIDDEN_FILE

        path = self.run_dir / "impl" / found.idea_id / HIDDEN_FILE
        return path if found.verdict != "invalid" and path.is_file() else None

    @property
    def found(self) -> tuple[Confirmation, ...]:
        """Of the looks that came to an end."""
        from xar_agent.jobs.confirm import read_confirmations

        return tuple(one for one in read_confirmations(self.run_dir) if one.number in self.subjects)

    @property
    def pending(self) -> tuple[int, ...]:
        """Numbers of the looks that did not."""
        ended = {one.number for one in self.found}
        return tuple(number for number in self.subjects if number not in ended)

    @property
    def measured(self) -> bool:
        """There is a valid result, and nothing ended the command early."""
        return self.error is None and any(one.verdict != "invalid" for one in self.found)

    @property
    def verdict(self) -> str:
        """The best one among the candidates; "none" when no look came to an end."""
        verdicts = {one.verdict for one in self.found}
        return next((word for word in WORDS if word in verdicts), "none")


def confirmed_json(result: Confirmed) -> dict[str, Any]:
    """The object that ``confirm --json`` prints."""
    return {
        "run": result.run_dir.name,
        "run_dir": str(result.run_dir),
        "env": result.env.name,
        "preset": result.preset,
        "metric": result.env.metric,
        "direction": result.env.direction,
        "split": "hidden",
        "corpus": result.corpus or None,
        "verdict": result.verdict,
        "confirmations": [
            {**one_json(one, result.subjects[one.number]), "card_path": text_of(result.card_of(one))}
            for one in result.found
        ],
        "pending": list(result.pending),
        "warnings": list(result.warnings),
        "error": result.error.message if result.error else None,
        "duration_s": round(result.duration_s, 1),
    }


def text_of(path: Path | None) -> str | None:
    """A path for JSON."""
    return None if path is None else str(path)


def one_json(found: Confirmation, subject: Subject) -> dict[str, Any]:
    """One candidate."""
    baseline = found.baseline
    return {
        "look": found.number,
        "idea_id": found.idea_id,
        "text": subject.text,
        "patch_path": str(subject.patch_path) if subject.patch_path else None,
        "tree": found.tree,
        "verdict": found.verdict,
        "reasons": list(found.reasons),
        "fidelity": found.fidelity,
        "seeds": list(found.seeds),
        "values": list(found.values),
        "score": {"mean": found.mean, "lo": found.lo, "hi": found.hi, "n": len(found.seeds)},
        "baseline": {
            "mean": baseline.mean,
            "sd": baseline.sd,
            "n": baseline.n,
            "machine": baseline.machine,
            "shipped": baseline.shipped,
            "mean_at_compute": found.baseline_mean,
        },
        "gain": {"mean": found.gain, "lo": found.gain_lo, "hi": found.gain_hi},
        "p": found.p,
        "looks": found.looks,
        "p_corrected": found.p_corrected,
        "compute_ratio": found.compute_ratio,
    }


def rows_of(found: Confirmation, subject: Subject, metric: str) -> list[tuple[str, str | Text]]:
    """Label and text of everything about one candidate."""
    from rich.text import Text

    from xar_agent.analysis.text import one_line

    rows: list[tuple[str, str | Text]] = [("idea", f"{found.idea_id}  {one_line(subject.text, 200)}")]
    rows.append(("verdict", Text(WORDS[found.verdict], style=STYLES[found.verdict])))
    rows.extend(("because", Text(one_line(reason, 300), style="red")) for reason in found.reasons[:1])
    if found.fidelity == "no_effect":
        rows.append(("fidelity", Text("no effect: the same seed gives what the baseline gives", style="yellow")))
    if found.mean is not None and found.gain is not None and found.p is not None:
        better = "lower" if found.direction == "min" else "higher"
        kind = f"{better} is better, mean of {len(found.seeds)} fresh seeds, hidden split"
        rows.append(("score", f"{found.mean:.4f} [{found.lo:.4f}, {found.hi:.4f}] {metric} ({kind})"))
        rows.append(("baseline", baseline_text(found.baseline)))
        rows.append(("gain", f"{found.gain:+.4f} [{found.gain_lo:+.4f}, {found.gain_hi:+.4f}], 95 % interval"))
        looks = "1 look at the hidden split" if found.looks == 1 else f"{found.looks} looks at the hidden split"
        rows.append(("p-value", f"{found.p:.2g} one-sided; {found.p_corrected:.2g} after {looks} in this run"))
        at = "" if found.baseline_mean == found.baseline.mean else f", which reaches {found.baseline_mean:.4f} with it"
        rows.append(("compute", f"{found.compute_ratio:.2f} x the baseline's{at}"))
    if subject.patch_path is not None:
        rows.append(("patch", shown(subject.patch_path)))
    return rows


def page_of(result: Confirmed) -> list[RenderableType]:
    """All candidates, and where everything lies."""
    from xar_agent.analysis.text import duration
    from xar_agent.cli.terminal import facts_grid

    page: list[RenderableType] = []
    for one in result.found:
        rows_of_one = rows_of(one, result.subjects[one.number], result.env.metric)
        if card := result.card_of(one):
            rows_of_one.append(("card", shown(card)))
        page += [facts_grid(rows_of_one), ""]
    rows = [("data", result.corpus)] if result.corpus else []
    rows += [("time", duration(result.duration_s)), ("run", shown(result.run_dir))]
    if result.pending:
        rows.append(("pending", f"look {', '.join(map(str, result.pending))}; the same command goes on"))
    rows.append(("next", f"xar-agent runs show {result.run_dir.name}{runs_dir_flag(result.run_dir)}"))
    page.append(facts_grid(rows))
    return page


def print_confirmed(result: Confirmed, *, as_json: bool, debug: bool = False) -> None:
    """The result on stdout; what ended it early on stderr."""
    from xar_agent.cli.terminal import print_json, progress_console, result_console, show_parts, tell_error

    if result.error is not None:
        tell_error(result.error, debug=debug)
    if as_json:
        print_json(confirmed_json(result))
        return
    progress = progress_console()
    if progress.is_terminal:
        progress.print()
    show_parts(result_console(), *page_of(result))
