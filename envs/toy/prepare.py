"""Build the toy data set: sentences of an invented language, as characters, in three splits.

    python prepare.py CACHE_DIR

Progress goes to stdout as JSON lines {"stage", "done", "total"}. A complete CACHE_DIR is left as it is.
Standard library only.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
from array import array
from pathlib import Path

ALPHABET = "abcdefghijklmnopqrstuvwxyz ."
SEED = 20260114
SPLIT_CHARACTERS = {"train": 300_000, "val": 30_000, "hidden": 30_000}
ONSETS = ["b", "d", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "kl", "pl", "st", "tr"]
VOWELS = "aeiou"
CODAS = ["", "", "n", "r", "s", "l"]
N_NOUNS, N_VERBS, N_ADJECTIVES = 60, 30, 30
RECIPE_VERSION = 1  # raised when the same seed would give other text


def report(stage: str, done: int, total: int) -> None:
    """One line of progress."""
    print(json.dumps({"stage": stage, "done": done, "total": total}), flush=True)


def make_word(rng: random.Random) -> str:
    """Two or three syllables from a narrow set of sounds."""
    syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(1, 2))]
    return "".join(syllables) + rng.choice(VOWELS)


class Language:
    """A lexicon and a grammar with agreement: plural nouns end in -k, their verbs in -th."""

    def __init__(self, rng: random.Random) -> None:
        self.nouns = [make_word(rng) for _ in range(N_NOUNS)]
        self.verbs = [make_word(rng) for _ in range(N_VERBS)]
        self.adjectives = [make_word(rng) for _ in range(N_ADJECTIVES)]

    def pick(self, words: list[str], rng: random.Random) -> str:
        """Frequent words are the first ones."""
        return words[min(int(rng.expovariate(6 / len(words))), len(words) - 1)]

    def noun_phrase(self, plural: bool, rng: random.Random) -> str:
        """Article, sometimes an adjective, noun."""
        words = ["oth" if plural else "u"]
        if rng.random() < 0.4:
            words.append(self.pick(self.adjectives, rng))
        words.append(self.pick(self.nouns, rng) + ("k" if plural else ""))
        return " ".join(words)

    def sentence(self, rng: random.Random) -> str:
        """Subject, verb, sometimes an object."""
        plural = rng.random() < 0.4
        words = [self.noun_phrase(plural, rng), self.pick(self.verbs, rng) + ("th" if plural else "")]
        if rng.random() < 0.7:
            words.append(self.noun_phrase(rng.random() < 0.3, rng))
        return " ".join(words) + ". "

    def text(self, n_characters: int, rng: random.Random) -> str:
        """Sentences until there are enough characters."""
        parts: list[str] = []
        length = 0
        while length < n_characters:
            parts.append(self.sentence(rng))
            length += len(parts[-1])
        return "".join(parts)[:n_characters]


def write_split(folder: Path, name: str, text: str) -> None:
    """NAME/NAME.bin holds uint16 little-endian ids; NAME/meta.json says how many, over how many bytes."""
    ids = array("H", (ALPHABET.index(character) for character in text))
    if sys.byteorder == "big":
        ids.byteswap()
    (folder / name).mkdir()
    (folder / name / f"{name}.bin").write_bytes(ids.tobytes())
    meta = {"tokens": len(ids), "vocab": len(ALPHABET), "dtype": "uint16", "bytes": len(text)}
    (folder / name / "meta.json").write_text(json.dumps(meta) + "\n")


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(folder: Path) -> None:
    """All splits, the alphabet as tokenizer.json, the manifest (path -> sha256 of every other file)."""
    language = Language(random.Random(SEED))
    for done, (name, n_characters) in enumerate(SPLIT_CHARACTERS.items()):
        report("generate", done, len(SPLIT_CHARACTERS))
        write_split(folder, name, language.text(n_characters, random.Random(f"{SEED} {name}")))
    report("generate", len(SPLIT_CHARACTERS), len(SPLIT_CHARACTERS))
    (folder / "tokenizer.json").write_text(json.dumps({"alphabet": ALPHABET}) + "\n")
    (folder / "recipe.json").write_text(json.dumps({"version": RECIPE_VERSION, "seed": SEED}) + "\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    (folder / "MANIFEST.json").write_text(json.dumps(digests, indent=1) + "\n")


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds the data set of this recipe with every file as it was written."""
    try:
        digests = json.loads((folder / "MANIFEST.json").read_text())
        recipe = json.loads((folder / "recipe.json").read_text())
        return recipe["version"] == RECIPE_VERSION and all(sha256_of(folder / n) == d for n, d in digests.items())
    except (OSError, ValueError, KeyError):
        return False


def replace_folder(target: Path) -> None:
    """Build in a new folder beside ``target`` and swap it in: ``target`` is never seen half-written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        build(fresh)
        if target.exists():
            target.rename(Path(scratch) / "old")
        fresh.rename(target)


def main() -> int:
    """Exit code 0 when CACHE_DIR is complete, else 1 and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache_dir", type=Path)
    arguments = parser.parse_args()
    try:
        if not is_complete(arguments.cache_dir):
            replace_folder(arguments.cache_dir.absolute())
    except OSError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    report("ready", 1, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
