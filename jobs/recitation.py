"""Does a patch carry data: the held-out text, its token ids, or weights? A score must come from training.

The corpora are public and whoever writes a patch may know them by heart. What is compared are windows of letters: those
of the candidate at every ``TEXT_WINDOW`` letters against those of the held-out text at every letter, so that a common
run of twice that length never goes unseen. The held-out text is never quoted, only the patch's own line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xar_agent.envs.spec import Preset
from xar_agent.jobs.data import DataSet
from xar_agent.jobs.opaque import opaque_data
from xar_agent.jobs.strings import checkpoint_text
from xar_agent.jobs.types import Check
from xar_agent.sandbox.protocol import Patch

NAME = "recitation"
MAX_PATCH_BYTES = 65_536
"""Added bytes, where the preset has no ``max_patch_bytes``: many times what an idea for such a repository needs."""
TEXT_WINDOW = 24
"""Letters: about five words. Of 60 excerpts of 10,000 characters from the plays that nanogpt trains on one had more
than two in common with those that are held out; of 100 excerpts of 200 characters of the latter had five or more."""
CIPHER_WINDOW = 48
REACH = 12
"""Letters. How long ago a letter was last used is the same in a text and in any cipher that replaces letters one by
one."""
ID_WINDOW_BITS = 120
"""A window of token ids has so many bits at least: 12 ids of 1,024, 8 of 50,257, 25 characters of the toy's."""
FREE_WINDOWS = 3
"""Matches that are taken for chance: a proverb, a stage direction."""
FREE_SHARE = 1 / 5000
"""Of a split: large corpora of web text hold licence headers and the like. Reciting 1/300 of the text is worth one
standard deviation on nanogpt's cpu preset."""
HELD_OUT = ("val", "hidden")
FREE_OWN_SHARE = 1 / 2000
"""Of the candidate's own text: of the plays that nanogpt trains on, 1/4700 is found in those that are held out."""
NOT_LETTERS = re.compile(r"[\W\d_]+")
WHOLE_NUMBER = re.compile(r"(?<![\w.])(?:0[xX][0-9a-fA-F]+|\d+)(?![\w.])")
FILE_HEADER = re.compile(r"^\+\+\+ (?:b/)?(.*)$")
HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")
READ_CHARACTERS = 1 << 22
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class AddedLine:
    """A line that a patch adds."""

    file: str
    number: int
    """In the patched file, from 1."""
    text: str

    @property
    def place(self) -> str:
        """``train.py:12``."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Overlap:
    """What is common to a candidate and one held-out split."""

    windows: int
    allowed: int
    size: int
    """Letters or ids of a window."""
    first: int
    """Place of the first common window in the candidate's sequence."""

    @property
    def too_much(self) -> bool:
        """More than chance and common phrases explain."""
        return self.windows > self.allowed


def added_lines(diff: str) -> tuple[AddedLine, ...]:
    """What a unified diff adds, in order. Only a line feed ends a line of it: a form feed does not, nor any other."""
    found: list[AddedLine] = []
    file, number, left = "", 0, 0
    for line in diff.split("\n"):
        if hunk := HUNK.match(line):
            number, left = int(hunk[1]), int(hunk[2] or 1)
        elif left > 0 and line[:1] in ("+", " ", ""):
            if line.startswith("+"):
                found.append(AddedLine(file, number, line[1:]))
            number, left = number + 1, left - 1
        elif left == 0 and (header := FILE_HEADER.match(line)):
            file = header[1]
    return tuple(found)


def data_in_patch(patch: Patch, preset: Preset) -> str:
    """Why a patch is refused before anything is compared: too large, or full of data; empty when it is not."""
    lines = added_lines(patch.diff)
    limit = int(preset.settings.get("max_patch_bytes", MAX_PATCH_BYTES))
    size = sum(len(line.text.encode()) + 1 for line in lines)
    if size > limit:
        return f"the patch adds {size:,} bytes; {limit:,} are allowed"
    return opaque_data([(line.place, line.text) for line in lines])


def recitation_check(patch: Patch, preset: Preset, data: DataSet, checkpoint: Path) -> Check:
    """The check of one candidate; its figure is the largest number of held-out windows found in one place.

    Raises:
        OSError: the data set or the checkpoint cannot be read.
    """
    if reason := data_in_patch(patch, preset):
        return Check(NAME, False, reason)
    lines = added_lines(patch.diff)
    strings = checkpoint_text(checkpoint)
    figure, reasons = 0, []
    for split in (name for name in HELD_OUT if data.split(name).is_dir()):
        for overlap, reason in overlaps(data.split(split), split, lines, strings):
            figure = max(figure, overlap.windows)
            if overlap.too_much:
                reasons.append(reason)
    return Check(NAME, not reasons, "; ".join(reasons), float(figure))


def overlaps(folder: Path, split: str, lines: Sequence[AddedLine], strings: str) -> Iterator[tuple[Overlap, str]]:
    """Patch text, patch numbers and checkpoint strings against one split, each with what would be said of it."""
    whose = "validation" if split == "val" else split
    letters, places = letters_of(lines)
    held_out = folder / "text.txt"
    if held_out.is_file():
        found = shared_text(letters, held_out)
        yield found, f"the patch carries text of the {whose} split: {told(found, places, lines, 'letters')}"
        if not found.too_much:
            yield from disguised(letters, places, held_out, f"the patch carries text of the {whose} split", lines)
        kept = shared_text(NOT_LETTERS.sub("", strings).casefold(), held_out)
        amount = f"{kept.windows * kept.size} letters or more"
        yield kept, f"strings in the checkpoint are text of the {whose} split: {amount}"
    ids, places = ids_of(lines)
    found = shared_ids(ids, folder, split)
    yield found, f"the patch lists token ids of the {whose} split: {told(found, places, lines, 'numbers')}"


def disguised(
    letters: str, places: Sequence[int], held_out: Path, said: str, lines: Sequence[AddedLine]
) -> Iterator[tuple[Overlap, str]]:
    """The same text written backwards, or with each letter replaced by another."""
    found = shared_text(letters[::-1], held_out)
    yield found, f"{said} backwards: {told(found, places[::-1], lines, 'letters')}"
    for text, order, how in ((letters, places, ""), (letters[::-1], places[::-1], " backwards")):
        found = shared_text(text, held_out, window=CIPHER_WINDOW, ciphered=True)
        yield found, f"{said} in a cipher{how}: {told(found, order, lines, 'letters')}"


def told(found: Overlap, places: Sequence[int], lines: Sequence[AddedLine], unit: str) -> str:
    """How much, and the patch's own line where it begins."""
    if not found.windows:
        return ""
    line = lines[places[found.first]]
    return (
        f"{found.windows * found.size} {unit} or more, first in {line.place}: {line.text.strip()[:SHOWN_CHARACTERS]!r}"
    )


def letters_of(lines: Sequence[AddedLine]) -> tuple[str, list[int]]:
    """The letters of all lines in one, without case; and for each of them the index of its line."""
    parts, places = [], []
    for index, line in enumerate(lines):
        letters = NOT_LETTERS.sub("", unescaped(line.text)).casefold()
        parts.append(letters)
        places.extend([index] * len(letters))
    return "".join(parts), places


def unescaped(text: str) -> str:
    """Line ends and the like within literals are no letters."""
    return re.sub(r"\\[abfnrtv]", " ", text)


def ids_of(lines: Sequence[AddedLine]) -> tuple[list[int], list[int]]:
    """All whole numbers of the lines, and for each the index of its line."""
    found = [(int(text, 0) if text[:2] in ("0x", "0X") else int(text), index) for index, text in numbers_in(lines)]
    return [value for value, _ in found], [index for _, index in found]


def numbers_in(lines: Iterable[AddedLine]) -> Iterator[tuple[int, str]]:
    """Index of the line and text of each whole number short enough to be a token id."""
    for index, line in enumerate(lines):
        yield from ((index, text) for text in WHOLE_NUMBER.findall(line.text) if len(text) <= 10)


def shared_text(letters: str, held_out: Path, *, window: int = TEXT_WINDOW, ciphered: bool = False) -> Overlap:
    """How many of the candidate's windows the held-out text has; it is read piece by piece."""
    wanted = first_places(recurrence(letters) if ciphered else letters, window)
    seen: set[str] = set()
    total, tail = 0, ""
    with held_out.open(encoding="utf-8", errors="replace") as file:
        while wanted and (piece := file.read(READ_CHARACTERS)):
            text = tail + NOT_LETTERS.sub("", piece).casefold()
            total += len(text) - len(tail)
            tail = text[max(0, len(text) - window - REACH) :]
            text = recurrence(text) if ciphered else text
            seen.update(w for i in range(len(text) - window + 1) if (w := text[i : i + window]) in wanted)
    return overlap_of([wanted[w] for w in seen], len(wanted), total, window)


def recurrence(letters: str) -> str:
    """For each letter how long ago it was used last, as a character; 0 where that is beyond the reach."""
    last: dict[str, int] = {}
    found = []
    for i, letter in enumerate(letters):
        ago = i - last.get(letter, -REACH - 1)
        found.append(chr(ago if ago <= REACH else 0))
        last[letter] = i
    return "".join(found)


def shared_ids(ids: Sequence[int], folder: Path, split: str) -> Overlap:
    """The same with token ids, where the split has them as a file."""
    paths = sorted(folder.glob(f"{split}*.bin"))
    width, window = id_bytes_and_window(folder)
    if len(ids) < window or not paths:
        return Overlap(0, FREE_WINDOWS, window, 0)
    largest, size = 1 << 8 * width, window * width
    wanted = first_places(b"".join((n if n < largest else 0).to_bytes(width, "little") for n in ids), size)
    content = b"".join(path.read_bytes() for path in paths)
    seen = {w for i in range(0, len(content) - size + 1, width) if (w := content[i : i + size]) in wanted}
    return overlap_of([wanted[w] // width for w in seen], len(wanted), len(content) // width, window)


def id_bytes_and_window(folder: Path) -> tuple[int, int]:
    """Bytes of one token id of a split, and how many ids are compared at a time."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        vocab, dtype = int(meta["vocab"]), meta.get("dtype")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        vocab, dtype = 50_257, "uint16"
    return 4 if dtype in ("uint32", "int32") else 2, math.ceil(ID_WINDOW_BITS / math.log2(max(vocab, 2)))


def first_places(sequence: str | bytes, size: int) -> dict[str | bytes, int]:
    """Every ``size``-th window of a sequence, with its first place."""
    places: dict[str | bytes, int] = {}
    for start in range(0, len(sequence) - size + 1, size):
        places.setdefault(sequence[start : start + size], start)
    return places


def overlap_of(places: Sequence[int], n_own: int, length: int, size: int) -> Overlap:
    """The common windows of a candidate that has so many, and of a split of this length."""
    allowed = max(FREE_WINDOWS, int(FREE_OWN_SHARE * n_own), int(FREE_SHARE * length / size))
    return Overlap(len(places), allowed, size, min(places, default=0))
