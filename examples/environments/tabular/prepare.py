"""Generate the tables: train/, val/ and hidden/, each with rows.f32, labels.u8 and meta.json.

    python prepare.py FOLDER [--source FILE]

Each class is three Gaussian clusters in six dimensions, whose centres are part of the recipe: the task is equally hard
everywhere. The rows, and the rotation that mixes those dimensions with ten of noise, are drawn from a seed that is made
up here and kept in the cache, in a folder that no sandbox sees. So nobody can know a held-out row or its label, neither
from this file nor from anything that was published. FILE holds such a seed and makes the tables of another machine
again: ``recipe.json`` in that machine's data folder is such a file. Standard library only.
"""

import argparse
import hashlib
import json
import math
import random
import secrets
import shutil
import sys
import tempfile
from array import array
from operator import mul
from pathlib import Path

SPLIT_ROWS = {"train": 6000, "val": 10_000, "hidden": 10_000}
N_CLASSES, N_CLUSTERS, N_SIGNAL, N_FEATURES = 4, 3, 6, 16
CENTRE_SD, CLUSTER_SD = 1.5, 1.0
SHARE_MISLABELLED = 0.03
CENTRES_SEED = 20261123
CORPUS = "generated table: Gaussian clusters under a random rotation"

Vector = list[float]


def report(stage: str, done: int, total: int) -> None:
    """One line of progress."""
    print(json.dumps({"stage": stage, "done": done, "total": total}), flush=True)


def cluster_centres() -> list[list[Vector]]:
    """Centres (class, cluster, signal), the same everywhere."""
    rng = random.Random(CENTRES_SEED)
    return [[[rng.gauss(0.0, CENTRE_SD) for _ in range(N_SIGNAL)] for _ in range(N_CLUSTERS)] for _ in range(N_CLASSES)]


def dot(a: Vector, b: Vector) -> float:
    """Inner product."""
    return sum(map(mul, a, b))


def random_rotation(rng: random.Random) -> list[Vector]:
    """Orthonormal rows (features, features), uniform: Gram-Schmidt over Gaussian vectors."""
    rows: list[Vector] = []
    while len(rows) < N_FEATURES:
        vector = [rng.gauss(0.0, 1.0) for _ in range(N_FEATURES)]
        for row in rows:
            along = dot(vector, row)
            vector = [v - along * r for v, r in zip(vector, row, strict=True)]
        norm = math.sqrt(dot(vector, vector))
        rows.append([v / norm for v in vector])
    return rows


def draw_row(rng: random.Random, centres: list[list[Vector]], rotation: list[Vector]) -> tuple[Vector, int]:
    """One row and its label."""
    label = rng.randrange(N_CLASSES)
    centre = rng.choice(centres[label])
    latent = [rng.gauss(middle, CLUSTER_SD) for middle in centre]
    latent += [rng.gauss(0.0, CENTRE_SD) for _ in range(N_FEATURES - N_SIGNAL)]
    if rng.random() < SHARE_MISLABELLED:
        label = rng.randrange(N_CLASSES)
    return [dot(row, latent) for row in rotation], label


def write_split(folder: Path, n_rows: int, rng: random.Random, rotation: list[Vector]) -> None:
    """One table: float32, little endian, row by row; one byte a label."""
    folder.mkdir()
    centres = cluster_centres()
    values, labels = array("f"), bytearray()
    for _ in range(n_rows):
        row, label = draw_row(rng, centres, rotation)
        values.extend(row)
        labels.append(label)
    if sys.byteorder == "big":
        values.byteswap()
    (folder / "rows.f32").write_bytes(values.tobytes())
    (folder / "labels.u8").write_bytes(labels)
    meta = {"rows": n_rows, "features": N_FEATURES, "classes": N_CLASSES}
    (folder / "meta.json").write_text(json.dumps(meta) + "\n")


def read_seed(source: Path | None) -> str:
    """The seed in a file, or a new one that nobody knows.

    Raises:
        ValueError: the file holds none.
    """
    if source is None:
        return secrets.token_hex(16)
    try:
        return str(json.loads(source.read_text())["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source} holds no seed; recipe.json of a data folder does") from error


def build(folder: Path, seed: str) -> None:
    """All splits, the recipe with its seed, the manifest (path -> sha256 of every other file)."""
    rotation = random_rotation(random.Random(f"{seed} rotation"))
    for done, (name, n_rows) in enumerate(SPLIT_ROWS.items()):
        report("generate", done, len(SPLIT_ROWS))
        write_split(folder / name, n_rows, random.Random(f"{seed} {name}"), rotation)
    report("generate", len(SPLIT_ROWS), len(SPLIT_ROWS))
    (folder / "recipe.json").write_text(json.dumps({"corpus": CORPUS, "seed": seed}) + "\n")
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
            build(fresh, read_seed(arguments.source))
            if target.exists():
                shutil.rmtree(target)
            fresh.rename(target)
    except (OSError, ValueError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
