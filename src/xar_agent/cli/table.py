"""A result for a person: a small table, where everything lies, and what to type next."""

from __future__ import annotations

import shlex
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from xar_agent.analysis.text import duration, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from xar_agent.cli.result import Result
    from xar_agent.envs.spec import Baseline

VERDICT_STYLES = {
    "better": "bold green",
    "within_noise": "yellow",
    "worse": "bold red",
    "invalid": "bold red",
    "none": "dim",
}
VERDICT_WORDS = {
    "better": "better than the baseline",
    "within_noise": "within noise: chance alone could explain the difference",
    "worse": "worse than the baseline",
    "invalid": "invalid: a validity check failed",
    "none": "none: there is nothing to compare with",
}
FIDELITY_WORDS = {
    "effect": "the patch changes training",
    "no_effect": "no effect: the same-seed run equals the baseline's",
    "unknown": "unknown",
}


def result_table(result: Result) -> RenderableType:
    """A label and a value a line."""
    from rich.text import Text

    from xar_agent.cli.terminal import facts_grid

    rows: list[tuple[str, str | Text]] = []
    if result.score and result.score.mean is not None and not result.error:
        rows += [(label, Text(text, style=style)) for label, text, style in score_rows(result)]
    elif not result.scored:
        rows.append(("score", Text("none", style="bold red" if result.jobs else "")))
    if result.why_not:
        rows.append(("because", Text(printable(result.why_not), style="red")))
    rows += [(label, Text(printable(text), style=style)) for label, text, style in check_rows(result)]
    return facts_grid([*rows, *cost_rows(result), *place_rows(result)])


def score_rows(result: Result) -> list[tuple[str, str, str]]:
    """Label, text and style of everything that was measured."""
    score, baseline = result.score, result.baseline
    assert score is not None
    better = "lower" if result.env.direction == "min" else "higher"
    seeds = f", mean of {score.n} seeds" if score.n > 1 else ""
    rows = [("score", f"{score.mean:.4f} {result.env.metric} ({better} is better{seeds})", "bold")]
    if baseline is not None:
        rows.append(("baseline", baseline_text(baseline), ""))
    if baseline is not None and score.delta is not None:
        in_sd = f" = {score.delta / baseline.sd:+.1f} sd" if baseline.sd > 0 else ""
        rows.append(("delta", f"{score.delta:+.4f}{in_sd}", ""))
    if baseline is None:
        name, preset = result.env.name, result.jobs[0].spec.preset
        rows.append(("baseline", f"none yet: xar-agent envs calibrate {name} --preset {preset}", "yellow"))
    rows.append(("verdict", VERDICT_WORDS[score.verdict], VERDICT_STYLES[score.verdict]))
    rows.append(("fidelity", FIDELITY_WORDS[result.fidelity], "yellow" if result.fidelity == "no_effect" else ""))
    ratio = statistics.fmean(e.compute_ratio for e in result.evaluations)
    rows.append(("compute", f"{ratio:.2f} x the baseline's{compared_at(result)}", ""))
    return rows


def check_rows(result: Result) -> list[tuple[str, str, str]]:
    """Data, checks, what was quarantined, and what a person should look at."""
    from xar_agent.analysis.quarantine import corpora_of, failed_checks, flags_of

    found = result.evaluations
    if not found:
        return []
    rows = [("data", ", ".join(corpora_of(found)), "")] if corpora_of(found) else []
    names = list(dict.fromkeys(check.name for e in found for check in e.checks))
    failed = [(e, check, reason) for e in found for check, reason in failed_checks(e)]
    rows += [("checks", f"{len(names)} passed: {', '.join(names)}", "")] if names and not failed else []
    for e, check, reason in failed:
        value = "no value" if e.value is None else f"{e.value:.4f}"
        rows.append(("quarantined", f"{value} at seed {e.seed}: {f'{check}: ' if check else ''}{reason}", "red"))
    return rows + [("look at", flag, "yellow") for flag in flags_of(found)]


def baseline_text(baseline: Baseline) -> str:
    """``2.4312 ± 0.0061 (n = 24, shipped: measured on ...)``."""
    whose = f"shipped, measured on {baseline.machine}" if baseline.shipped else "this machine"
    return f"{baseline.mean:.4f} ± {baseline.sd:.4f} (n = {baseline.n}, {whose})"


def compared_at(result: Result) -> str:
    """With which baseline a patch that computes more or less was compared."""
    expected = result.score.baseline_mean if result.score else None
    if expected is None or result.baseline is None or expected == result.baseline.mean:
        return ""
    return f", which reaches {expected:.4f} with as much"


def cost_rows(result: Result) -> list[tuple[str, str]]:
    """What it cost."""
    made = result.implementation
    if made is None:
        return [("time", duration(result.duration_s))]
    price = "unknown price" if made.usage.cost_usd is None else f"${made.usage.cost_usd:.2f}"
    tokens = f"{made.usage.input_tokens:,} tokens in, {made.usage.output_tokens:,} out"
    return [("cost", f"{price}, {tokens}, {made.steps} steps, {duration(result.duration_s)}")]


def place_rows(result: Result) -> list[tuple[str, str]]:
    """Where everything lies, and what to type next."""
    rows = [("run", shown(result.run_dir))]
    nexts = []
    if result.implementation is not None:
        nexts.append(f"xar-agent replay {typed(result.implementation.trajectory.parent)}")
    if result.patch_path is not None and result.scored:
        nexts.append(f"xar-agent evaluate {typed(result.patch_path)} --env {result.env.name} --seeds 3")
    if result.card_path is not None:
        rows.append(("card", shown(result.card_path)))
    nexts.append(f"xar-agent runs show {result.run_dir.name}{runs_dir_flag(result.run_dir)}")
    rows.extend(("next" if i == 0 else "", text) for i, text in enumerate(nexts))
    return rows


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def typed(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(shown(path))


def runs_dir_flag(run_dir: Path) -> str:
    """What ``runs show`` needs in order to find the run again from here."""
    from xar_agent.config import load_settings

    return "" if load_settings().runs_dir == run_dir.parent else f" --runs-dir {typed(run_dir.parent)}"


def print_result(result: Result, *, as_json: bool, debug: bool = False) -> None:
    """The result on stdout, for a program or for a person; what ended it early on stderr."""
    from xar_agent.cli.result import result_json
    from xar_agent.cli.terminal import print_json, progress_console, result_console, show_parts, tell_error

    if result.error is not None:
        tell_error(result.error, debug=debug)
    if as_json:
        print_json(result_json(result))
        return
    progress = progress_console()
    if progress.is_terminal:
        progress.print()
    show_parts(result_console(), result_table(result))
