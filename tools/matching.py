"""Find the one place that a search/replace edit means."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Rule = Literal["exact", "trailing spaces", "re-indented"]
MAX_NEAREST = 3
MIN_LIKENESS = 0.55  # below this a "nearest" place only misleads
MAX_COMPARED_LINES = 4000  # difflib over longer files takes seconds


@dataclass(frozen=True, slots=True)
class Match:
    """One place and what would stand there."""

    start: int
    end: int
    """Character range in the file."""
    replacement: str
    line: int
    """First line, counted from 1."""


@dataclass(frozen=True, slots=True)
class Matches:
    """All places that the first rule with any place found."""

    rule: Rule
    places: tuple[Match, ...]


def find_matches(text: str, old: str, new: str) -> Matches | None:
    """Places of ``old`` by the first rule that finds any: exact, then blind to trailing spaces, then re-indented."""
    exact = tuple(exact_matches(text, old, new))
    if exact:
        return Matches("exact", exact)
    if not old.strip():
        return None
    rules: tuple[Rule, ...] = ("trailing spaces", "re-indented")
    for rule in rules:
        places = tuple(line_matches(text, old, new, reindent=rule == "re-indented"))
        if places:
            return Matches(rule, places)
    return None


def exact_matches(text: str, old: str, new: str) -> Iterator[Match]:
    """Every occurrence, overlapping ones too: two that overlap are ambiguous as well."""
    start = text.find(old)
    while start >= 0:
        yield Match(start, start + len(old), new, text.count("\n", 0, start) + 1)
        start = text.find(old, start + 1)


def line_matches(text: str, old: str, new: str, *, reindent: bool) -> Iterator[Match]:
    """Runs of whole lines that equal ``old`` but for trailing spaces (and one uniform indentation)."""
    lines = text.split("\n")
    wanted, fresh = whole_lines(old), whole_lines(new)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    for first in range(len(lines) - len(wanted) + 1):
        window = lines[first : first + len(wanted)]
        shifted = shift_lines(window, wanted, fresh) if reindent else (fresh if same_lines(window, wanted) else None)
        if shifted is not None:
            end = starts[first + len(wanted)] - 1
            yield Match(starts[first], end, "\n".join(shifted), first + 1)


def whole_lines(text: str) -> list[str]:
    """Lines without the empty one after a final newline."""
    lines = text.split("\n")
    return lines[:-1] if len(lines) > 1 and lines[-1] == "" else lines


def same_lines(window: list[str], wanted: list[str]) -> bool:
    """Equal but for trailing white space."""
    return all(a.rstrip() == b.rstrip() for a, b in zip(window, wanted, strict=True))


def shift_lines(window: list[str], wanted: list[str], fresh: list[str]) -> list[str] | None:
    """The new lines at the window's indentation, or None when no single shift makes the two equal."""
    pairs = [(a.rstrip(), b.rstrip()) for a, b in zip(window, wanted, strict=True)]
    if any(bool(a) != bool(b) for a, b in pairs):
        return None
    first = next(((a, b) for a, b in pairs if a), None)
    if first is None:
        return None
    deeper = indentation(first[0]).removesuffix(indentation(first[1]))
    if indentation(first[0]) == deeper + indentation(first[1]):
        if all(a == (deeper + b if b else b) for a, b in pairs):
            return [deeper + line if line.strip() else line for line in fresh]
        return None
    extra = indentation(first[1]).removesuffix(indentation(first[0]))
    if any(b != (extra + a if a else a) for a, b in pairs):
        return None
    if any(line.strip() and not line.startswith(extra) for line in fresh):
        return None
    return [line.removeprefix(extra) for line in fresh]


def indentation(line: str) -> str:
    """Leading white space."""
    return line[: len(line) - len(line.lstrip())]


def nearest_places(text: str, old: str) -> list[str]:
    """Up to three line ranges that look most like ``old``, best first, as "12-15: first line"."""
    lines, wanted = text.split("\n")[:MAX_COMPARED_LINES], whole_lines(old)
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2("\n".join(line.strip() for line in wanted))
    scored = []
    for first in range(max(1, len(lines) - len(wanted) + 1)):
        window = "\n".join(line.strip() for line in lines[first : first + len(wanted)])
        matcher.set_seq1(window)
        if matcher.real_quick_ratio() >= MIN_LIKENESS and matcher.quick_ratio() >= MIN_LIKENESS:
            scored.append((matcher.ratio(), first))
    best = sorted((score, -first) for score, first in scored if score >= MIN_LIKENESS)[::-1][:MAX_NEAREST]
    return [f"{-at + 1}-{min(-at + len(wanted), len(lines))}: {lines[-at].strip()[:100]}" for _, at in best]
