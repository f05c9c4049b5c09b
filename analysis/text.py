"""Text that a model or a patch wrote, made safe and short for a terminal."""

from __future__ import annotations

import re

# CSI and OSC sequences, other two-byte escapes, then whatever control character is left.
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x1b\\|\x07|$)|\x1b.|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL)
# Tab and newline stay. Direction marks can make code read differently from what it is (CVE-2021-42574).
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)

DIFF_STYLES = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red", "diff ": "bold"}
"""Prefix -> style; the first that fits counts."""


def printable(text: str) -> str:
    """The text without anything that steers a terminal or hides what is written."""
    return CONTROLS.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def one_line(text: str, width: int = 100) -> str:
    """The text on one printable line of at most ``width`` characters."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def fold(text: str, *, head: int = 12, tail: int = 6) -> str:
    """A long text with its middle left out, and a line that says how much is missing."""
    lines = printable(text).rstrip("\n").split("\n")
    if len(lines) <= head + tail + 1:
        return "\n".join(lines)
    cut = len(lines) - head - tail
    return "\n".join([*lines[:head], f"[… {cut} lines left out …]", *lines[-tail:]])


def duration(seconds: float) -> str:
    """Seconds for a person: ``0.4 s``, ``38 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(n_bytes: int) -> str:
    """Bytes for a person, in decimal units as download pages have them."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit in ("B", "kB") or value >= 100 else f"{value:.2g} {unit}"


def diff_style(line: str) -> str:
    """The style of one line of a unified diff."""
    return next((style for prefix, style in DIFF_STYLES.items() if line.startswith(prefix)), "dim")
