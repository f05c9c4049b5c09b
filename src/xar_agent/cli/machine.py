"""What this machine has for a run besides sandboxes: model, keys by name, disks, Python, GPUs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.errors import ModelUnavailable, XarError
from xar_agent.redact import SECRET_NAME
from xar_agent.sandbox.patience import within

if TYPE_CHECKING:
    from xar_agent.agent.choose import ModelChoice
    from xar_agent.config import Settings
    from xar_agent.envs.spec import EnvSpec

ANSWER_S = 6.0
"""For a model's server, and for the GPUs' driver."""
USES_TORCH = re.compile(r"^\s*(?:import|from) torch\b", re.MULTILINE)
TORCH_HINT = "pip install 'xar-agent[train]'"


@dataclass(frozen=True, slots=True)
class ModelLook:
    """The model that a command without ``--model`` would use, and the embedded one's file."""

    name: str = ""
    """Empty: none could be chosen."""
    kind: str = ""
    about: str = ""
    embedded_path: str = ""
    """Empty: the file has not been downloaded."""
    embedded_bytes: int = 0
    """Size of the whole file."""
    server_installed: bool = False
    """The package that serves it is there."""
    why_not: str = ""
    """Why ``implement`` could not use the chosen one as things are."""
    hint: str = ""


def look_at_model(settings: Settings) -> ModelLook:
    """Choose as every command does; a named server is asked whether it is there."""
    from xar_agent.agent.local_files import DEFAULT, check_file, find, given_file, known_model

    embedded, place = known_model(DEFAULT), find(DEFAULT)
    known: dict[str, Any] = {
        "embedded_path": str(place) if place else "",
        "embedded_bytes": embedded.n_bytes,
        "server_installed": importlib.util.find_spec("xllamacpp") is not None,
    }
    try:
        choice = within(ANSWER_S, lambda: chosen(settings), "the model's server")
        known |= {"name": choice.name, "kind": choice.kind, "about": choice.line.removeprefix("model ")}
        if choice.kind == "local":
            if not known["server_installed"]:
                raise ModelUnavailable(
                    "its server is not installed", "pip install 'xar-agent[local]', or set XAR_MODEL"
                )
            if place is None:
                wrong = given_file()
                why = f"XAR_LOCAL_MODEL={wrong} does not exist" if wrong else "its file has not been downloaded"
                raise ModelUnavailable(why, "xar-agent models fetch, or set XAR_MODEL and its provider's key")
            if place.stat().st_size != embedded.n_bytes and not (report := check_file(embedded, place)).ok:
                raise ModelUnavailable(f"{place}: {report.reason}", "xar-agent models fetch")
    except XarError as error:
        return ModelLook(**known, why_not=error.message, hint=error.hint)
    return ModelLook(**known)


def chosen(settings: Settings) -> ModelChoice:
    """The choice, with a word from its server if it names one.

    Raises:
        XarError: none can be chosen, or nothing listens at the server's address.
    """
    from xar_agent.agent.choose import choose_model
    from xar_agent.cli.prepare import reach

    choice = choose_model(None, configured=settings.model, api_base=settings.api_base)
    if choice.api_base:
        reach(choice.api_base)
    return choice


def key_names(environ: Mapping[str, str]) -> list[str]:
    """Names of the variables that hold keys and the like; nothing of their values."""
    return sorted(name for name, value in environ.items() if value and SECRET_NAME.search(name))


def free_bytes(settings: Settings) -> dict[str, tuple[str, int]]:
    """By use: the folder, or the nearest one above it that exists, and the bytes that are free there."""
    places = {"runs": settings.runs_dir, "cache": settings.cache_dir, "temporary": Path(tempfile.gettempdir())}
    found = {}
    for use, place in places.items():
        folder = next(above for above in (place, *place.parents) if above.is_dir())
        found[use] = (str(place), shutil.disk_usage(folder).free)
    return found


@dataclass(frozen=True, slots=True)
class PythonLook:
    """The Python that runs this, which is also that of the sandboxes without an image."""

    version: str
    path: str
    torch: str
    """Version; empty where it is not installed."""


def look_at_python() -> PythonLook:
    """Versions, without importing torch."""
    from xar_agent.jobs.machine import torch_version

    return PythonLook(sys.version.split()[0], sys.executable, torch_version())


def needs_torch(env: EnvSpec) -> bool:
    """One of the environment's programs imports it."""
    return any(USES_TORCH.search(path.read_text(errors="replace")) for path in env.repo.rglob("*.py"))


@dataclass(frozen=True, slots=True)
class GpuLook:
    """The GPUs, and who holds them."""

    devices: tuple[dict[str, Any], ...] = ()
    """``uuid``, ``index``, ``name``, ``memory_mib`` and ``held_by``: a process id or None."""
    left_out: tuple[str, ...] = ()
    """A line for each device that cannot be used."""
    why_not: str = ""
    """The driver is there and is broken."""
    hint: str = ""


def look_at_gpus() -> GpuLook:
    """What the driver says, and the leases of all users."""
    from xar_agent.sandbox.gpus import machine_gpus

    try:
        gpus = machine_gpus()
        found = within(ANSWER_S, gpus.source, "the GPUs' driver", "see whether nvidia-smi answers")
        holders = {lease.name: lease.pid for lease in gpus.leases()}
    except XarError as error:
        return GpuLook(why_not=error.message, hint=error.hint)
    rows = [
        {"uuid": one.uuid, "index": one.index, "name": one.name, "memory_mib": one.memory_mib}
        | {"held_by": holders.get(one.uuid)}
        for one in found.devices
    ]
    return GpuLook(tuple(rows), found.left_out)


def without_credentials(text: str) -> str:
    """The text with the user part of every URL masked: an address may carry a password."""
    return re.sub(r"(?<=://)[^/@\s]+@", "…@", text)
