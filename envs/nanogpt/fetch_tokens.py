"""Download token shards of a data set on the hub, so that a connection that breaks costs only what was on its way.

    python fetch_tokens.py FOLDER OWNER/DATASET[#TRAIN_SHARDS]

All .bin files whose names speak of validation or test, and the first TRAIN_SHARDS others by name (10 unless said). The
hub is HF_ENDPOINT, else huggingface.co. Progress goes to stdout as JSON lines {"stage", "done", "total"}, in MiB.
"""

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_TRAIN_SHARDS = 10
NAME = re.compile(r"(?P<dataset>[\w.-]+/[\w.-]+)(#(?P<n>[1-9]\d{0,4}))?")
HELD_OUT = re.compile(r"(?<![a-z])(val(id|idation)?|test|hidden)(?![a-z])")
MAX_LISTING_BYTES = 64 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 5  # in a row without a byte
PAUSE_S = 2.0  # after the first such attempt; longer after each
CHUNK_BYTES = 1 << 20


class FetchError(Exception):
    """The shards cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the data set, as the hub describes it."""

    path: str
    n_bytes: int
    sha256: str | None

    @property
    def name(self) -> str:
        """Its own name, without folders."""
        return self.path.rpartition("/")[2]


def report(done: int, total: int) -> None:
    """One line of progress."""
    print(json.dumps({"stage": "download, MiB", "done": done >> 20, "total": total >> 20}), flush=True)


def endpoint() -> str:
    """Address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def open_url(url: str, first_byte: int = 0) -> Any:
    """The answer to a GET from this byte on.

    Raises:
        FetchError: the hub refuses; trying again would not help.
        OSError: it cannot be reached now.
    """
    headers = {"User-Agent": "xar-agent", **({"Range": f"bytes={first_byte}-"} if first_byte else {})}
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        with error:
            if error.code in (401, 403, 404):
                raise FetchError(f"{url}: {error.code} {error.reason}; is it public, and spelled so?") from None
            raise OSError(f"{error.code} {error.reason}") from None


def list_files(dataset: str) -> list[Remote]:
    """The data set's .bin files, by name."""
    url = f"{endpoint()}/api/datasets/{quote(dataset)}/tree/main?recursive=true"
    try:
        with open_url(url) as answer:
            entries = json.loads(answer.read(MAX_LISTING_BYTES))
        files = [entry for entry in entries if entry["path"].endswith(".bin") and entry.get("size")]
        found = [Remote(f["path"], int(f["size"]), (f.get("lfs") or {}).get("oid")) for f in files]
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(f"no answer from {endpoint()}: {reason}; or name tokens of your own: --data PATH") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{url} did not give a list of files: {error!r}") from error
    return sorted(found, key=lambda remote: remote.path)


def choose(files: list[Remote], n_train: int, dataset: str) -> list[Remote]:
    """Held-out shards and the first training shards."""
    held_out = [remote for remote in files if HELD_OUT.search(remote.name.lower())]
    train = [remote for remote in files if remote not in held_out]
    if not train:
        raise FetchError(f"{dataset} has no .bin files with tokens")
    chosen = held_out + train[:n_train]
    if len({remote.name for remote in chosen}) < len(chosen):
        raise FetchError(f"{dataset} has files of one name in several folders: download it, and name a folder of it")
    return chosen


def refuse_full_disk(folder: Path, missing: int) -> None:
    """Say before the download that it cannot fit."""
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise FetchError(
            f"the disk of {folder} is too full: {missing / 1e9:,.1f} GB to come, {free / 1e9:,.1f} GB free"
        )


def fetch(dataset: str, remote: Remote, folder: Path, so_far: int, total: int, pause_s: float) -> None:
    """One file, from where an earlier try stopped; it gets its name when it is whole."""
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    if target.is_file() and target.stat().st_size == remote.n_bytes:
        return
    url = f"{endpoint()}/datasets/{quote(dataset)}/resolve/main/{quote(remote.path)}"
    failures = 0
    while (before := size_of(part)) < remote.n_bytes:
        reason: object = "the connection was cut"
        try:
            with open_url(url, before) as answer, part.open("ab") as file:
                if before and answer.status != 206:
                    file.truncate(0)
                    file.seek(0)  # this server begins at the beginning each time
                receive(answer, file, remote.n_bytes, so_far, total)
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            reason = getattr(error, "reason", None) or error
        failures = 0 if size_of(part) > before else failures + 1
        if failures >= ATTEMPTS:
            raise FetchError(f"{remote.name}: {reason}; the same command goes on from there")
        time.sleep(pause_s * failures)
    check(remote, part)
    part.rename(target)


def receive(answer: Any, file: IO[bytes], n_bytes: int, so_far: int, total: int) -> None:
    """Write what comes, to the end of the connection or of the file."""
    while chunk := answer.read(min(CHUNK_BYTES, n_bytes - file.tell())):
        file.write(chunk)
        report(so_far + file.tell(), total)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    return path.stat().st_size if path.is_file() else 0


def check(remote: Remote, path: Path) -> None:
    """Refuse a file that is not the hub's, and forget it."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != remote.n_bytes or (remote.sha256 and found != remote.sha256):
        path.unlink()
        raise FetchError(f"{remote.name} came damaged, and was thrown away; try again")


def fetch_all(folder: Path, name: str, pause_s: float) -> None:
    """All shards of a source into the folder."""
    wanted = NAME.fullmatch(name)
    if not wanted:
        raise FetchError(f"{name!r} is not the name of a data set, such as kjj0/fineweb10B-gpt2#10")
    dataset = wanted["dataset"]
    chosen = choose(list_files(dataset), int(wanted["n"] or DEFAULT_TRAIN_SHARDS), dataset)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(remote.n_bytes for remote in chosen)
    here = sum(size_of(folder / remote.name) or size_of(folder / f"{remote.name}.part") for remote in chosen)
    refuse_full_disk(folder, total - here)
    so_far = 0
    for remote in chosen:
        report(so_far, total)
        fetch(dataset, remote, folder, so_far, total, pause_s)
        so_far += remote.n_bytes
    for path in set(folder.iterdir()) - {folder / remote.name for remote in chosen}:
        path.unlink()  # of another choice of shards


def main() -> int:
    """Exit code 0 when every shard is there, else 1 and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds after an attempt that brought nothing")
    arguments = parser.parse_args()
    try:
        fetch_all(arguments.folder, arguments.dataset, arguments.pause)
    except (FetchError, OSError) as error:
        print(f"fetch_tokens: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
