"""An environment's data set: prepared once into the cache, checked against its manifest each time it is used."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import IO

from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import DataUnavailable
from xar_agent.jobs.stream import read_tokens
from xar_agent.redact import SECRET_NAME, redact

MANIFEST = "MANIFEST.json"
STDERR_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class PrepareProgress:
    """How far the preparation is."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class DataSet:
    """A complete data set on the host. Only the split that a program needs is ever shown to it."""

    folder: Path
    sha256: str
    """Of the manifest, which holds the digest of every file."""

    def split(self, name: str) -> Path:
        """Folder of "train", "val" or "hidden"; "smoke" is scored on training text."""
        return self.folder / ("train" if name == "smoke" else name)

    def train_tokens(self) -> array[int]:
        """The training text.

        Raises:
            DataUnavailable: it cannot be read.
        """
        return read_tokens(self.split("train") / "train.bin")


def cache_folder() -> Path:
    """``XAR_CACHE``, else ~/.cache/xar-agent."""
    return Path(os.environ.get("XAR_CACHE") or Path.home() / ".cache" / "xar-agent")


def prepare_data(
    env: EnvSpec, *, source: Path | None = None, on_progress: Callable[[PrepareProgress], None] | None = None
) -> DataSet:
    """The environment's data set, built now when the cache does not hold it whole.

    Args:
        env: whose ``prepare.py`` builds it. Another version of that file gets another folder.
        source: the raw material, if the user has it: nothing is downloaded then.
        on_progress: hears how far the preparation is.

    Raises:
        DataUnavailable: it could not be built; the message says why.
    """
    program = env.folder / env.file.prepare
    version = hashlib.sha256(program.read_bytes()).hexdigest()[:10]
    folder = cache_folder() / "data" / f"{env.name}-{version}"
    if (digest := verify(folder)) is None:
        with alone(folder):
            if (digest := verify(folder)) is None:  # another process may have built it meanwhile
                run_prepare(program, folder, source, on_progress)
                if folder.is_dir():
                    make_readable(folder)
                digest = verify(folder)
    if digest is None:
        raise DataUnavailable(
            f"{program.name} of {env.name} left an incomplete data set in {folder}", "delete that folder and try again"
        )
    return DataSet(folder, digest)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else builds this data set; the kernel lets go of the lock however the process ends.

    Raises:
        DataUnavailable: the cache cannot be written.
    """
    path = folder.with_name(f"{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DataUnavailable(f"cannot write to the cache {path.parent}: {error.strerror}", "set XAR_CACHE") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def verify(folder: Path) -> str | None:
    """Digest of the manifest when every file is as the manifest says, else None."""
    try:
        text = (folder / MANIFEST).read_bytes()
        for name, digest in json.loads(text).items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                return None
    except (OSError, ValueError, AttributeError):
        return None
    return hashlib.sha256(text).hexdigest()


def make_readable(folder: Path) -> None:
    """Let every user read the data, whatever the umask was: the evaluator's sandbox may run as another one."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def run_prepare(
    program: Path, folder: Path, source: Path | None, on_progress: Callable[[PrepareProgress], None] | None
) -> None:
    """Run the environment's own prepare program; it is trusted and may download. All of it ends with this process.

    Raises:
        DataUnavailable: it failed; the message is its last line.
    """
    keeper = [sys.executable, "-I", str(Path(__file__).with_name("prepare_child.py"))]
    command = [*keeper, sys.executable, "-P", str(program), str(folder), *(["--source", str(source)] if source else [])]
    environment = {name: value for name, value in os.environ.items() if not SECRET_NAME.search(name)}
    hint = "the preparation needs the network once"
    try:
        process = subprocess.Popen(
            command, env=environment, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    except OSError as error:
        raise DataUnavailable(f"cannot run {program}: {error}") from error
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said: list[str] = []
        listener = threading.Thread(target=keep_tail, args=(process.stderr, said), daemon=True)
        listener.start()
        try:
            for line in process.stdout:
                if on_progress and (progress := parse_progress(line)):
                    on_progress(progress)
            listener.join()
        finally:
            process.stdin.close()  # the end of the program and of all that it started, if it has not ended
    if process.returncode != 0:
        last = "".join(said).strip().splitlines() or [f"exit code {process.returncode}"]
        raise DataUnavailable(redact(last[-1]), hint)


def keep_tail(stream: IO[str], said: list[str]) -> None:
    """Read to the end, keeping the last lines."""
    for line in stream:
        said.append(line[:STDERR_CHARACTERS])
        del said[:-20]


def parse_progress(line: str) -> PrepareProgress | None:
    """A line of progress, or None for anything else that the program prints."""
    try:
        values = json.loads(line)
        return PrepareProgress(str(values["stage"]), int(values["done"]), int(values["total"]))
    except (ValueError, KeyError, TypeError):
        return None
