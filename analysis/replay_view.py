"""An episode for a person at a terminal: every step with what the model wrote, called and was shown."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xar_agent.analysis.episode import Call, Episode, Step
from xar_agent.analysis.text import diff_style, duration, fold, one_line, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

INDENT = 4
REPEATED = ("diff --git ", "index ")
"""Lines of a diff that say once more which file it is."""


def episode_json(episode: Episode) -> dict[str, Any]:
    """The episode for a program; long texts are whole."""
    known = ("idea", "env", "model", "sandbox", "tree", "base")
    start = {key: episode.start[key] for key in known if key in episode.start}
    tokens_in, tokens_out = episode.tokens
    return {
        "episode": str(episode.folder),
        **start,
        "steps": [dataclasses.asdict(step) for step in episode.steps],
        "tokens": {"input": tokens_in, "output": tokens_out},
        "end": episode.end or None,
    }


def show_episode(console: Console, episode: Episode) -> None:
    """Print it. Nothing in it can steer the terminal: escapes and control characters are taken out."""
    for label, text in facts_of(episode):
        print_indented(console, text, label=label)
    before = ""
    for step in episode.steps:
        console.print()
        show_step(console, step, before)
        before = before if step.diff is None else step.diff
    console.print()
    print_indented(console, ending_of(episode), label="end")


def facts_of(episode: Episode) -> list[tuple[str, str]]:
    """Label and text of the head."""
    start = episode.start
    idea = start.get("idea")
    text = idea.get("text", "") if isinstance(idea, dict) else str(idea or "")
    rows = [("episode", str(episode.folder)), ("idea", one_line(text, 2000))]
    for label, name in (("env", "name"), ("model", "name"), ("sandbox", "backend")):
        value = start.get(label)
        told = value.get(name, "") if isinstance(value, dict) else value
        if told:
            rows.append((label, one_line(str(told), 200)))
    return rows


def show_step(console: Console, step: Step, diff_before: str) -> None:
    """One step: the reply's bill, its words, its calls with their results, the change."""
    from rich.text import Text

    bill = f"{duration(step.latency_s)}, {step.input_tokens:,} tokens in, {step.output_tokens:,} out"
    console.print(Text(f"step {step.number}", style="bold").append(f"   {bill}", style="dim"))
    if step.text.strip():
        print_indented(console, fold(step.text), style="italic")
    for call in step.calls:
        show_call(console, call)
    for kind, text in step.notes:
        print_indented(console, f"({kind}) {fold(text)}" if text else f"({kind})", style="yellow")
    if step.diff is not None and step.diff != diff_before:
        for line in changed_lines(diff_before, step.diff):
            if line.startswith(REPEATED):
                continue
            print_indented(console, line, style=diff_style(line))


def show_call(console: Console, call: Call) -> None:
    """A call, its arguments one a line, and what came back."""
    from rich.text import Text

    head = Text(" " * INDENT).append(one_line(call.name, 40), style="cyan")
    rest = list(argument_lines(call.arguments))
    if len(rest) == 1 and "\n" not in rest[0]:
        console.print(head.append(f"  {rest[0]}"), overflow="fold")
    else:
        console.print(head)
        for line in rest:
            print_indented(console, fold(line), indent=2 * INDENT)
    if not call.answered:
        print_indented(console, "cut off before its result", style="red")
        return
    style = "red" if call.error else "green"
    print_indented(
        console, f"{'✗' if call.error else '→'} {one_line(call.summary or call.error or 'done', 300)}", style=style
    )
    shown = readable(call.shown).strip().removeprefix(call.summary.strip()).strip("\n")
    if shown:
        print_indented(console, fold(shown), indent=2 * INDENT, style="dim")


def argument_lines(arguments: str) -> Iterator[str]:
    """``key: value`` for each argument of a call; the raw text when it is no JSON object."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        yield printable(arguments)
        return
    for key, value in parsed.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield (
            f"{printable(str(key))}: {printable(text)}"
            if "\n" not in text
            else f"{printable(str(key))}:\n{printable(text)}"
        )


def readable(shown: str) -> str:
    """What the model was shown; a JSON object becomes one line a key."""
    return "\n".join(argument_lines(shown)) if shown.lstrip().startswith("{") else shown


def changed_lines(before: str, after: str) -> list[str]:
    """Those lines of a diff that were not in the one of the step before: what this step did."""
    if not before:
        return printable(after).splitlines()
    matcher = difflib.SequenceMatcher(a=before.splitlines(), b=after.splitlines(), autojunk=False)
    new = [line for tag, _, _, lo, hi in matcher.get_opcodes() if tag != "equal" for line in after.splitlines()[lo:hi]]
    return printable("\n".join(new)).splitlines()


def ending_of(episode: Episode) -> str:
    """How it ended, in one line."""
    tokens_in, tokens_out = episode.tokens
    bill = f"{len(episode.steps)} steps, {tokens_in:,} tokens in, {tokens_out:,} out"
    if not episode.end:
        return f"cut off: the record has no end ({bill})"
    reason = episode.end.get("exit_reason") or episode.end.get("reason") or ""
    outcome = str(episode.end.get("outcome", ""))
    told = str(reason) if str(reason).startswith(outcome) else f"{outcome}: {reason}"
    return one_line(f"{told} ({bill})", 400)


def print_indented(console: Console, text: str, *, label: str = "", indent: int = INDENT, style: str = "") -> None:
    """Print lines under each other; those that are wider than the terminal go on under their own text."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    body: Text = Text(printable(text), style=style, overflow="fold")
    if not label:
        console.print(Padding(body, (0, 0, 0, indent)))
        return
    row = Table.grid(padding=0)
    row.add_column(width=10, style="dim", no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(label, body)
    console.print(row)
