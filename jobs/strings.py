"""The text within a checkpoint's files: what a candidate could have written there besides weights."""

from __future__ import annotations

import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

MIN_RUN = 32
"""Printable bytes in a row; shorter ones occur among weights by chance."""
MAX_TEXT_BYTES = 8 << 20
"""Of all files together."""
MAX_UNPACKED_BYTES = 512 << 20
CHUNK_BYTES = 4 << 20
PRINTABLE = re.compile(rb"[\x20-\x7e\t\r\n\x80-\xff]{%d,}" % MIN_RUN)
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, MemoryError),
)
"""What ``zipfile`` raises about an archive that is not as it should be; whose content is a candidate's."""
WORDY = re.compile(rb"[A-Za-z]{2}|[\xc3-\xf4][\x80-\xbf]")
"""Text has letters side by side; lists of numbers and most runs of weights do not."""
MIN_WORDY_SHARE = 0.15


def checkpoint_text(folder: Path) -> str:
    """Printable runs of all files, also within compressed members of archives, joined by line ends.

    Raises:
        OSError: a file cannot be read.
    """
    found: list[bytes] = []
    size = 0
    for path in sorted(folder.iterdir()):
        for run in runs_of(path):
            found.append(run)
            size += len(run)
            if size > MAX_TEXT_BYTES:
                return b"\n".join(found).decode("utf-8", "replace")
    return b"\n".join(found).decode("utf-8", "replace")


def runs_of(path: Path) -> Iterator[bytes]:
    """Of one file as it lies there, then of what is compressed in it."""
    with path.open("rb") as file:
        yield from wordy_runs(iter(lambda: file.read(CHUNK_BYTES), b""))
    yield from compressed_runs(path)


def compressed_runs(path: Path) -> Iterator[bytes]:
    """Of the members of a zip archive that do not lie in it as they are; a damaged archive has none."""
    left = MAX_UNPACKED_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type == zipfile.ZIP_STORED or member.file_size > left:
                    continue
                left -= member.file_size
                with archive.open(member) as file:
                    yield from wordy_runs(iter(lambda file=file: file.read(CHUNK_BYTES), b""))  # type: ignore[misc]
    except DAMAGED:
        return


def wordy_runs(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Printable runs that look like text; one that goes over the end of a chunk counts as two."""
    for chunk in chunks:
        for match in PRINTABLE.finditer(chunk):
            run = match.group()
            if len(WORDY.findall(run)) >= MIN_WORDY_SHARE * len(run):
                yield run
