"""Whether an environment's data set can be trusted: three splits, and none of them in another."""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator
from pathlib import Path

from xar_agent.jobs.bench import Bench
from xar_agent.jobs.findings import Finding, failed, missing, ok

SPLITS = ("train", "val", "hidden")
SAMPLES = 200
SAMPLE_BYTES = 200
"""A sentence or two, or a few rows of a table: they do not come twice by chance."""
SEARCHED_BYTES = 128 << 20
"""Of each file: two hundred searches of that take some seconds."""
MAX_SHARE = 0.05
"""A corpus repeats itself a little (headings, licences); held-out data that was copied repeats itself everywhere."""


def check_data(bench: Bench) -> Iterator[Finding]:
    """The splits are there and do not share their content."""
    folders = {name: bench.data.split(name) for name in SPLITS}
    absent = [name for name, folder in folders.items() if not any(p.is_file() for p in folder.rglob("*"))]
    if absent:
        yield missing("data", f"the data set has nothing under {', '.join(absent)}", "let prepare.py write all splits")
        return
    yield ok("data", f"prepared in {bench.data.folder}")
    for held, other in (("val", "train"), ("hidden", "train"), ("hidden", "val")):
        share = shared(folders[held], folders[other])
        if share > MAX_SHARE:
            text = f"{share:.0%} of the samples of {held} stand in {other} as they are"
            yield failed("splits", text, "let prepare.py cut them so that they share nothing")
            return
    yield ok("splits", f"train, val and hidden are apart ({SAMPLES} samples of {SAMPLE_BYTES} bytes of each looked up)")


def shared(held: Path, other: Path) -> float:
    """Share of random samples of one folder's data that occur in the other's, byte for byte."""
    places = [path for path in data_files(held) if path.stat().st_size >= SAMPLE_BYTES]
    if not places:
        return float(any(a.read_bytes() == b.read_bytes() for a in data_files(held) for b in data_files(other)))
    rng = random.Random(0)
    sizes = [path.stat().st_size for path in places]
    samples = [read_sample(path, rng) for path in rng.choices(places, sizes, k=SAMPLES)]
    found = [False] * SAMPLES
    for path in data_files(other):
        if not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = [
                known or content.find(sample, 0, SEARCHED_BYTES) >= 0
                for known, sample in zip(found, samples, strict=True)
            ]
    return sum(found) / SAMPLES


def data_files(folder: Path) -> list[Path]:
    """The files of a split that hold data; meta.json may be the same in all."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "meta.json")


def read_sample(path: Path, rng: random.Random) -> bytes:
    """Some bytes from anywhere in a file."""
    with path.open("rb") as file:
        file.seek(rng.randrange(path.stat().st_size - SAMPLE_BYTES + 1))
        return file.read(SAMPLE_BYTES)
