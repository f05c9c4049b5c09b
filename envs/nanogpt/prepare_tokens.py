"""Make a data set of GPT-2 tokens, yours or FineWeb's from the hub, in splits that share no token.

    python prepare_tokens.py FOLDER [--source PATH | --source hub:OWNER/DATASET[#TRAIN_SHARDS]]

PATH is a file or a folder of files with uint16 ids: headerless .bin, .bin with the llm.c header, or .npy. Whole
training files are hard-linked where that is possible, the rest is copied. Progress goes to stdout as JSON lines
{"stage", "done", "total"}. A complete FOLDER is left as it is.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # python -P leaves it out

from token_files import VOCAB_SIZE, PrepareError, Tokens, check_ids, open_tokens, refuse_copies  # noqa: E402

RECIPE_VERSION = 1  # raised when the same source would give other files, also by a change in token_files.py
END_OF_TEXT = 50256
HELD_OUT_TOKENS = 10_240 * 1025  # 10,485,760 scored tokens in rows of 1024 that share none
SMOKE_TOKENS = 64 * 1025
MIN_TRAIN_TOKENS = 1 << 20  # the token stream has 512 lanes of whole rows

HUB = "hub:"
DEFAULT_SOURCE = f"{HUB}kjj0/fineweb10B-gpt2#10"  # FineWeb; a shard has 100 million tokens in 200 MB
VAL_NAME = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])")
HIDDEN_NAME = re.compile(r"(?<![a-z])(test|hidden)(?![a-z])")


def report(stage: str, done: int, total: int) -> None:
    """One line of progress."""
    print(json.dumps({"stage": stage, "done": done, "total": total}), flush=True)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def held_out(files: list[Tokens], n: int) -> tuple[Tokens, Tokens, list[Tokens]]:
    """Validation, hidden and training tokens: none in two of them.

    Each held-out split is the beginning of a file named for it, else of what is left of the other one's file, else the
    end of the last training file that is long enough.
    """
    pools: dict[str, list[Tokens]] = {"val": [], "hidden": [], "train": []}
    for tokens in files:
        pools[split_named(tokens.path)].append(tokens)
    taken = []
    for first, second in (("val", "hidden"), ("hidden", "val")):
        found = take(pools[first], n) or take(pools[second], n) or take_end(pools["train"], n)
        taken += [found] if found else []
    train = [tokens for tokens in pools["train"] if tokens.n]
    if len(taken) < 2 or sum(tokens.n for tokens in train) < MIN_TRAIN_TOKENS:
        total = sum(tokens.n for tokens in files)
        raise PrepareError(
            f"too few tokens: {n:,} are held out for validation and {n:,} for the hidden split, each in one piece, and "
            f"training needs {MIN_TRAIN_TOKENS:,}; {total:,} are there, in {len(files)} files"
        )
    return taken[0], taken[1], train


def take(pool: list[Tokens], n: int) -> Tokens | None:
    """Cut the first ``n`` tokens off a file; None when no file is long enough."""
    for index, tokens in enumerate(pool):
        if tokens.n >= n:
            pool[index] = tokens.part(n, tokens.n)
            return tokens.part(0, n)
    return None


def take_end(pool: list[Tokens], n: int) -> Tokens | None:
    """Cut the last ``n`` tokens off the last file that is long enough."""
    for index, tokens in reversed(list(enumerate(pool))):
        if tokens.n >= n:
            pool[index] = tokens.part(0, tokens.n - n)
            return tokens.part(tokens.n - n, tokens.n)
    return None


def split_named(path: Path) -> str:
    """The split that a file's name speaks of."""
    stem = path.stem.lower()
    return "val" if VAL_NAME.search(stem) else "hidden" if HIDDEN_NAME.search(stem) else "train"


def copy_tokens(tokens: Tokens, target: Path) -> None:
    """Write ids without a header."""
    with target.open("wb") as file:
        for chunk in tokens.chunks():
            file.write(chunk.tobytes())


def write_meta(folder: Path, n_tokens: int, n_bytes: int | None = None, **more: object) -> None:
    """What programs need to read a split; the bytes of its text are null where no tokenizer was there to tell."""
    meta = {"tokens": n_tokens, "vocab": VOCAB_SIZE, "dtype": "uint16", "bytes": n_bytes, **more}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def write_train(folder: Path, files: list[Tokens], whole: set[Tokens]) -> None:
    """The training files, one after another: linked when all of it is for training, else copied without the rest."""
    folder.mkdir()
    shards = []
    for done, tokens in enumerate(files):
        report("training files", done, len(files))
        name = tokens.path.name if tokens in whole else f"{tokens.path.stem}.bin"
        if tokens in whole:
            link_or_copy(tokens.path, folder / name)
        else:
            copy_tokens(tokens, folder / name)
        shards.append({"file": name, "offset": tokens.offset if tokens in whole else 0, "tokens": tokens.n})
    write_meta(folder, sum(tokens.n for tokens in files), shards=shards)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file; a copy where that cannot be: another disk, another owner."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def write_held_out(folder: Path, tokens: Tokens, tokenizer: Path | None) -> None:
    """NAME/NAME.bin, and text.txt where the source has a tokenizer.json."""
    folder.mkdir()
    copy_tokens(tokens, folder / f"{folder.name}.bin")
    n_bytes = write_text(folder / "text.txt", tokens, tokenizer) if tokenizer else None
    write_meta(folder, tokens.n, n_bytes)


def write_text(path: Path, tokens: Tokens, tokenizer: Path) -> int:
    """What the ids say, document by document; returns its bytes."""
    from tokenizers import Tokenizer

    decoder = Tokenizer.from_file(str(tokenizer))
    ids = np.concatenate(list(tokens.chunks()))
    documents = np.split(ids, np.flatnonzero(ids == END_OF_TEXT) + 1)
    texts = decoder.decode_batch([document.tolist() for document in documents], skip_special_tokens=True)
    path.write_bytes("".join(texts).encode("utf-8"))
    return path.stat().st_size


def token_files(source: Path) -> list[Path]:
    """The token files of a source, by name."""
    if source.is_file():
        return [source]
    found = sorted(path for path in source.glob("*") if path.suffix in (".bin", ".npy") and path.is_file())
    if not found:
        raise PrepareError(f"there are no .bin or .npy files with tokens in {source}")
    return found


def described(source: Path) -> dict[str, str]:
    """The source's own meta.json: "dtype" must be uint16, "corpus" is its name; empty when there is none."""
    path = (source if source.is_dir() else source.parent) / "meta.json"
    try:
        meta = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise PrepareError(f"{path} is not JSON") from None
    if not isinstance(meta, dict) or meta.get("dtype", "uint16") != "uint16":
        raise PrepareError(f"{path} says that ids are not uint16: {str(meta)[:100]}")
    return {"corpus": meta["corpus"]} if isinstance(meta.get("corpus"), str) else {}


def fetch(source: str, folder: Path) -> None:
    """Download a hub data set; what has come stays for the next try when it fails.

    Raises:
        SystemExit: it failed, and has said why.
    """
    program = Path(__file__).with_name("fetch_tokens.py")
    done = subprocess.run([sys.executable, "-P", str(program), str(folder), source.removeprefix(HUB)], check=False)
    if done.returncode:
        raise SystemExit(1)


def build(folder: Path, source: Path, corpus: str, n_held_out: int) -> None:
    """Everything from the token files to the manifest, inside ``folder``."""
    files = [open_tokens(path) for path in token_files(source)]
    refuse_copies(files)
    for done, tokens in enumerate(files):
        report("check ids", done, len(files))
        check_ids(tokens)
    val, hidden, train = held_out(files, n_held_out)
    write_train(folder / "train", train, set(files))
    tokenizer = (source if source.is_dir() else source.parent) / "tokenizer.json"
    for name, tokens in (("val", val), ("hidden", hidden)):
        write_held_out(folder / name, tokens, tokenizer if tokenizer.is_file() else None)
    write_held_out(folder / "smoke", train[0].part(0, min(SMOKE_TOKENS, train[0].n)), None)
    recipe = {
        "version": RECIPE_VERSION,
        "corpus": corpus,
        "vocab": VOCAB_SIZE,
        "held_out_tokens": n_held_out,
        "files": {t.path.name: {"tokens": t.n, "named_for": split_named(t.path)} for t in files},
        "val": place_of(val),
        "hidden": place_of(hidden),
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    write_manifest(folder)


def place_of(tokens: Tokens) -> dict[str, object]:
    """Where a split was taken from."""
    return {"file": tokens.path.name, "first_byte": tokens.offset, "tokens": tokens.n}


def write_manifest(folder: Path) -> None:
    """MANIFEST.json: path -> sha256 of every other file."""
    digests: dict[str, str] = {}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for done, path in enumerate(files):
        report("manifest", done, len(files))
        digests[path.relative_to(folder).as_posix()] = sha256_of(path)
    (folder / "MANIFEST.json").write_text(json.dumps(digests, indent=1) + "\n")


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds a data set of this recipe with every file as it was written."""
    try:
        digests = json.loads((folder / "MANIFEST.json").read_text())
        recipe = json.loads((folder / "recipe.json").read_text())
        return recipe["version"] == RECIPE_VERSION and all(sha256_of(folder / n) == d for n, d in digests.items())
    except (OSError, ValueError, KeyError):
        return False


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder beside ``target`` and swap it in: ``target`` is never seen half-written."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        fill(fresh)
        if target.exists():
            target.rename(Path(scratch) / "old")
        fresh.rename(target)


def make(target: Path, source: str, n_held_out: int) -> None:
    """The data set from a source; a download is removed once the data set has its files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.startswith(HUB):
        place = Path(source)
        if not place.exists():
            raise PrepareError(f"no such file or folder: {place}")
        corpus = described(place).get("corpus") or (place.name if place.is_dir() else place.stem)
        replace_folder(target, lambda folder: build(folder, place, corpus, n_held_out))
        return
    download = target.with_name(f"{target.name}.download")
    fetch(source, download)
    corpus = source.removeprefix(HUB).partition("#")[0]
    replace_folder(target, lambda folder: build(folder, download, corpus, n_held_out))
    shutil.rmtree(download)


def main() -> int:
    """Exit code 0 when FOLDER is complete, else 1 and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", default=DEFAULT_SOURCE, help="your own tokens, or a data set of the hub")
    parser.add_argument("--held-out", type=int, default=HELD_OUT_TOKENS, help="tokens of each held-out split")
    arguments = parser.parse_args()
    try:
        if not is_complete(arguments.folder):
            make(arguments.folder.absolute(), arguments.source, arguments.held_out)
    except (PrepareError, OSError) as error:
        print(f"prepare_tokens: {error}", file=sys.stderr)
        return 1
    report("ready", 1, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
