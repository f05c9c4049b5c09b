"""Build the data set: train/, val/ and hidden/, each with rows.csv (four inputs and the target a line).

    python prepare.py FOLDER [--source FILE]

Replace ``splits``: read your own file (``--source``, which users name with ``--data``) and cut it in three. The three
must not share rows. Only train/ is ever shown to the agent or its program; val/ scores the search, hidden/ is looked
at by ``xar-agent confirm`` alone. Runs on the host, once; it is trusted and may download. Standard library only.
"""

import argparse
import csv
import hashlib
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SPLIT_ROWS = {"train": 1500, "val": 2000, "hidden": 2000}
SEED = 20261123
NOISE_SD = 0.3
CORPUS = "generated: four inputs, one smooth target"  # named with every score


def splits(source: Path | None) -> Iterator[tuple[str, list[list[float]]]]:
    """Name and rows of each split. Generated here; whoever can read this file could make the held-out rows too."""
    if source is not None:
        raise ValueError("this environment makes its rows itself and takes no --source")
    for name, n_rows in SPLIT_ROWS.items():
        rng = random.Random(f"{SEED} {name}")
        yield name, [make_row(rng) for _ in range(n_rows)]


def make_row(rng: random.Random) -> list[float]:
    """Four inputs in [-1, 1] and the target."""
    a, b, c, d = (rng.uniform(-1.0, 1.0) for _ in range(4))
    target = math.sin(3.0 * a) + 2.0 * b * c + d * d + rng.gauss(0.0, NOISE_SD)
    return [round(value, 6) for value in (a, b, c, d, target)]


def build(folder: Path, source: Path | None) -> None:
    """All splits, what the data set is called, and the manifest (path -> sha256 of every other file)."""
    for name, rows in splits(source):
        (folder / name).mkdir()
        with (folder / name / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        print(json.dumps({"stage": f"write {name}", "done": 1, "total": 1}), flush=True)
    (folder / "recipe.json").write_text(json.dumps({"corpus": CORPUS}) + "\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "MANIFEST.json").write_text(json.dumps(digests, indent=1) + "\n")


def main() -> int:
    """Exit code 0 when FOLDER is complete, else 1 and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path)
    arguments = parser.parse_args()
    target: Path = arguments.folder.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            build(fresh, arguments.source)
            if target.exists():
                shutil.rmtree(target)
            fresh.rename(target)
    except (OSError, ValueError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
