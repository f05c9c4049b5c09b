"""An environment's data set: prepared once into the cache, checked against its manifest each time it is used."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any

from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import DataUnavailable
from xar_agent.jobs.intact import look, verify
from xar_agent.jobs.tokens import TokenText, read_split
from xar_agent.redact import SECRET_NAME, redact

STDERR_CHARACTERS = 4000
CORPUS_CHARACTERS = 80
REMOTE = "hub:"
SOURCE_HINT = "docs/data.md says what --data may name"


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
    corpus: str = ""
    """Name of the text, to be shown with every score."""

    def split(self, name: str) -> Path:
        """Folder of "train", "val" or "hidden"; "smoke" is training text, where it is large a piece of it."""
        if name == "smoke" and not (self.folder / name).is_dir():
            return self.folder / "train"
        return self.folder / name

    def n_tokens(self, split: str) -> int | None:
        """How many tokens a split has; None when its meta.json does not say."""
        found = read_object(self.split(split) / "meta.json").get("tokens")
        return found if isinstance(found, int) else None

    def train_tokens(self) -> TokenText:
        """The training text, open for reading.

        Raises:
            DataUnavailable: it is not there, or cut short.
        """
        return read_split(self.split("train"), "train")


def cache_folder() -> Path:
    """``XAR_CACHE``, else ~/.cache/xar-agent."""
    return Path(os.environ.get("XAR_CACHE") or Path.home() / ".cache" / "xar-agent")


def prepare_data(
    env: EnvSpec,
    preset: str | None = None,
    *,
    source: str | None = None,
    on_progress: Callable[[PrepareProgress], None] | None = None,
) -> DataSet:
    """The data set of a preset, built now when the cache does not hold it whole.

    Args:
        env: whose program builds it. Another version of that program gets another folder.
        preset: its size, which may have a program of its own; None: the environment's program.
        source: the raw material, if the user has it: nothing is downloaded then. A path, or "hub:OWNER/DATASET".
        on_progress: hears how far the preparation is.

    Raises:
        DataUnavailable: it could not be built; the message says why.
    """
    folder = data_folder(env, preset, source)
    program = prepare_program(env, preset)
    if (digest := checked(folder, on_progress)) is None:
        with alone(folder):
            if (digest := checked(folder, on_progress)) is None:  # another process may have built it meanwhile
                run_prepare(program, folder, source, on_progress)
                if folder.is_dir():
                    make_readable(folder)
                digest = checked(folder, on_progress)
    if digest is None:
        raise DataUnavailable(
            f"{program.name} of {env.name} left an incomplete data set in {folder}", "delete that folder and try again"
        )
    return DataSet(folder, digest, corpus_of(folder, env))


def find_data(env: EnvSpec, preset: str | None = None, *, source: str | None = None) -> DataSet | None:
    """The data set if the cache has it; its files are not read through, and nothing is prepared or written.

    Raises:
        DataUnavailable: the source is not there.
    """
    folder = data_folder(env, preset, source)
    digest = look(folder)
    return DataSet(folder, digest, corpus_of(folder, env)) if digest else None


def prepare_program(env: EnvSpec, preset: str | None) -> Path:
    """The program that builds a preset's data."""
    own = env.preset(preset).prepare if preset else None
    return env.folder / (own or env.file.prepare)


def data_folder(env: EnvSpec, preset: str | None, source: str | None) -> Path:
    """Where a preset's data set lies in the cache: one folder for each program and each source.

    Raises:
        DataUnavailable: the source is not there.
    """
    version = hashlib.sha256(prepare_program(env, preset).read_bytes()).hexdigest()[:10]
    own = f"-{source_identity(source)}" if source else ""
    return cache_folder() / "data" / f"{env.name}-{version}{own}"


def source_identity(source: str) -> str:
    """Ten hex digits that change with the source's place, and with the size and time of each of its files.

    Raises:
        DataUnavailable: there is no such file or folder.
    """
    state = hashlib.sha256(source.encode() if is_remote(source) else b"")
    if not is_remote(source):
        place = Path(source).expanduser().resolve()
        try:
            paths = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
            stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        except OSError as error:
            raise DataUnavailable(f"cannot read the data source {place}: {error.strerror}") from error
        if not stamps:
            raise DataUnavailable(f"there is no data in {place}", "--data names a file, or a folder with files")
        state.update(json.dumps(stamps).encode())
    return state.hexdigest()[:10]


def is_remote(source: str) -> bool:
    """Whether it is the name of a data set on a hub and not a path."""
    return source.startswith(REMOTE)


def corpus_of(folder: Path, env: EnvSpec) -> str:
    """What the data set's recipe calls its text, else the environment's name; on one line, since it is shown."""
    name = read_object(folder / "recipe.json").get("corpus")
    return " ".join(name.split())[:CORPUS_CHARACTERS] if isinstance(name, str) and name.strip() else env.name


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def checked(folder: Path, on_progress: Callable[[PrepareProgress], None] | None) -> str | None:
    """Digest of a whole data set, else None."""

    def heard(done: int, total: int) -> None:
        if on_progress:
            on_progress(PrepareProgress("verify", done, total))

    return verify(folder, heard)


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


def make_readable(folder: Path) -> None:
    """Let every user read the data, whatever the umask was: the evaluator's sandbox may run as another one.

    A file with a second name is the user's own: who may read that is for the user to say.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.stat().st_nlink == 1:
            path.chmod(0o755 if path.is_dir() else 0o644)


def run_prepare(
    program: Path, folder: Path, source: str | None, on_progress: Callable[[PrepareProgress], None] | None
) -> None:
    """Run the environment's own prepare program; it is trusted and may download. All of it ends with this process.

    Raises:
        DataUnavailable: it failed; the message is its last line.
    """
    keeper = [sys.executable, "-I", str(Path(__file__).with_name("prepare_child.py"))]
    place = source if source is None or is_remote(source) else str(Path(source).expanduser().resolve())
    command = [*keeper, sys.executable, "-P", str(program), str(folder), *(["--source", place] if place else [])]
    environment = {name: value for name, value in os.environ.items() if not SECRET_NAME.search(name)}
    hint = SOURCE_HINT if source else "the preparation needs the network once, or your own data: --data"
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
