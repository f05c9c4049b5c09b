"""Is the added text of a patch a program, or data in disguise: packed bytes, base64, tables of weights?

Three measures, none of which reads the code: long runs without a space, numbers in number literals, and how well a
stretch of text can be compressed. Bounds are set so that honest code passes (licences, docstrings, tables of a hundred
coefficients) and less than a thousandth of a small model's weights does.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

MIN_RUN = 64
"""Characters without a space or a quote. Identifiers and expressions are shorter."""
MIN_RUN_BITS = 4.75
"""Bits a character: dotted names and paths have 4.0 to 4.5, base64 has more than 5."""
HUGE_RUN = 512
"""Characters without a space that are data whatever their entropy."""
MAX_RUN_BYTES = 1024
MAX_FOREIGN_BYTES = 4096
"""The same for runs of letters beyond ASCII: scripts that are written without spaces are honest comments, too."""
MAX_NUMBERS = 1500
MAX_DIGITS = 12_000
STRETCH = 4096
MAX_DENSITY = 0.56
"""Compressed over plain size of a stretch. Code has 0.32 (in 2,467 files of public packages 0.53 at most), hexadecimal
digits 0.57, base64 0.76."""
JOIN = re.compile(r"""["'][^\S\n]*+(?:[+\\][^\S\n]*+)?+\n\s*+(?:[+]\s*+)?+[rbfuRBFU]{0,2}+["']""")
"""Between two literals that Python joins. It never looks twice at a blank: a patch may have thousands in a row."""
JOIN_LINES = re.compile(r"""(?<=[^\s"']{40})\n(?=[^\s"']{40})""")
"""Between two lines of one text without spaces."""
RUN = re.compile(rf"""[^\s"']{{{MIN_RUN},}}""")
HEXADECIMAL = re.compile(r"(?:\\x|[0-9a-fA-F])+")
NUMERIC = re.compile(r"[\d.,;:eExX+\-_\[\](){}]+")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:0[xX][0-9a-fA-F]+|\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+)")


def opaque_data(lines: Sequence[tuple[str, str]]) -> str:
    """Why the lines (place, text) count as data, with the place where it begins; empty for a program."""
    text = "\n".join(line for _, line in lines)
    return packed_runs(text, lines) or number_tables(lines) or dense_stretch(text, lines)


def packed_runs(text: str, lines: Sequence[tuple[str, str]]) -> str:
    """Long runs that are neither numbers nor separators."""
    runs = [m.group() for m in RUN.finditer(JOIN_LINES.sub("", JOIN.sub("", text))) if not NUMERIC.fullmatch(m.group())]
    packed = [run for run in runs if is_packed(run)]
    foreign = [run for run in packed if not run.isascii()]
    n_plain = sum(len(run) for run in packed if run.isascii())
    n_foreign = sum(len(run.encode()) for run in foreign)
    if n_plain <= MAX_RUN_BYTES and n_foreign <= MAX_FOREIGN_BYTES:
        return ""
    first = (packed if n_plain > MAX_RUN_BYTES else foreign)[0][: MIN_RUN // 2]
    place = next((place for place, line in lines if first in line), lines[0][0])
    return f"the patch carries {n_plain + n_foreign:,} bytes of data in literals, first in {place}"


def number_tables(lines: Sequence[tuple[str, str]]) -> str:
    """More numbers than a program has."""
    counts = [(place, NUMBER.findall(line)) for place, line in lines]
    n_numbers = sum(len(found) for _, found in counts)
    n_digits = sum(len(number) for _, found in counts for number in found)
    if n_numbers <= MAX_NUMBERS and n_digits <= MAX_DIGITS:
        return ""
    place = max(counts, key=lambda count: sum(map(len, count[1])))[0]
    return f"the patch carries {n_numbers:,} number literals of {n_digits:,} characters, most in {place}"


def dense_stretch(text: str, lines: Sequence[tuple[str, str]]) -> str:
    """A stretch that can hardly be compressed, whatever it is written in."""
    content = text.encode()
    for start in range(0, len(content) - STRETCH + 1, STRETCH // 2):
        stretch = content[start : start + STRETCH]
        if len(zlib.compress(stretch, 9)) > MAX_DENSITY * len(stretch):
            number = content[:start].count(b"\n")
            return f"the patch carries {STRETCH:,} bytes or more of packed data, from {lines[number][0]} on"
    return ""


def is_packed(run: str) -> bool:
    """A long run is no name and no expression."""
    if HEXADECIMAL.fullmatch(run):
        return len(set(run)) > 4
    bits = bits_a_character(run)
    return bits > MIN_RUN_BITS or (len(run) >= HUGE_RUN and bits > 2)


def bits_a_character(run: str) -> float:
    """Entropy of a run's characters."""
    n = len(run)
    return -sum(count / n * math.log2(count / n) for count in Counter(run).values())
