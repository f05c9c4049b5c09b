"""What an environment may use besides what is installed: packages of a wheelhouse, models of this machine's hub cache.

Nothing is downloaded. Both are shown read-only to every sandbox of the environment. Packages are installed once per
list and Python, by that Python's own pip; they come behind whatever is installed already, so that they replace nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xar_agent.envs.spec import EnvFile, EnvSpec
from xar_agent.errors import ConfigError, ServiceMissing
from xar_agent.jobs.data import PrepareProgress, alone, cache_folder, make_readable
from xar_agent.sandbox import files, open_sandbox
from xar_agent.sandbox.protocol import Bind, ExecResult, Limits, SandboxInfo, SandboxSpec
from xar_agent.store import store_errors, to_json

PACKAGES = "/xar/packages"
MODELS = "/xar/models"
WHEELHOUSE = "/xar/wheelhouse"
INSTALL_S = 900.0
"""Unpacking and compiling a few hundred megabytes of wheels on a busy disk."""
PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?==[A-Za-z0-9.!+_-]+")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
NOT_THERE = ("No matching distribution found", "Could not find a version")
PIP = ("-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "install", "--no-index")


@dataclass(frozen=True, slots=True)
class Supplies:
    """The packages and models that every sandbox of an environment sees."""

    packages: Path | None = None
    """Folder that goes to the end of ``sys.path``."""
    hub: Path | None = None
    """The hub cache that holds the models."""
    models: tuple[str, ...] = ()
    """Folders of the models in that cache; no other one is shown."""

    @property
    def binds(self) -> tuple[Bind, ...]:
        """What a sandbox needs for them."""
        packages = (Bind(self.packages, PACKAGES),) if self.packages else ()
        models = tuple(Bind(self.hub / name, f"{MODELS}/{name}") for name in self.models) if self.hub else ()
        return (*packages, *models)

    def environment(self, backend: str, *, shell: bool = False) -> Mapping[str, str]:
        """What programs are told.

        Args:
            backend: the sandbox's; ``process`` remaps no path.
            shell: for commands that nobody starts through a launcher, which finds the packages by ``XAR_PACKAGES``.
        """
        remaps = backend != "process"
        values: dict[str, str] = {}
        if self.packages:
            place = PACKAGES if remaps else str(self.packages)
            values = {"XAR_PACKAGES": place, **({"PYTHONPATH": place} if shell else {})}
        if self.hub:
            values |= {"HF_HUB_CACHE": MODELS if remaps else str(self.hub), "HF_HUB_OFFLINE": "1"}
        return values


def supplies_for(
    env: EnvSpec,
    info: SandboxInfo,
    *,
    image: str | None = None,
    on_progress: Callable[[PrepareProgress], None] | None = None,
) -> Supplies:
    """The environment's packages, installed now if the cache lacks them, and its models.

    Args:
        env: whose ``[wheels]`` and ``models`` are meant.
        info: the back end that its programs run in: its Python installs the packages.
        image: its container image, where it has images.
        on_progress: hears that packages are installed.

    Raises:
        ConfigError: a requirement is not pinned, or a model's name is none.
        ServiceMissing: the wheelhouse lacks a package, or the hub cache a model; the hint has the command that gets it.
    """
    packages = installed_packages(env, info, image, on_progress) if env.file.wheels.requirements else None
    if not env.file.models:
        return Supplies(packages)
    return Supplies(packages, hub_with(env.file.models), tuple(map(model_folder, env.file.models)))


def offered_text(file: EnvFile) -> str:
    """One line for the agent about what it may use besides what is installed; empty when there is nothing."""
    parts = []
    if file.wheels.requirements:
        parts.append(f"these packages (no others can be installed): {', '.join(file.wheels.requirements)}")
    if file.models:
        parts.append(f"these models, from the offline hub cache at $HF_HUB_CACHE: {', '.join(file.models)}")
    return f"- Every program can use {'; and '.join(parts)}." if parts else ""


def wheelhouse() -> Path:
    """``XAR_WHEELHOUSE``, else ``wheelhouse`` in the cache: a folder of wheels."""
    return Path(os.environ.get("XAR_WHEELHOUSE") or cache_folder() / "wheelhouse").absolute()


def installed_packages(
    env: EnvSpec,
    info: SandboxInfo,
    image: str | None,
    on_progress: Callable[[PrepareProgress], None] | None = None,
) -> Path:
    """Folder with the environment's packages and all that they need.

    Raises:
        ConfigError: a requirement is not pinned.
        ServiceMissing: the wheelhouse lacks one.
    """
    requirements = sorted(env.file.wheels.requirements)
    for requirement in requirements:
        if not PINNED.fullmatch(requirement):
            raise ConfigError(
                f"{env.folder / 'env.toml'}: wheels.requirements: {requirement!r} is not pinned",
                'write "NAME==VERSION": a score belongs to one version',
            )
    python = info.runtime or f"{sys.version} {sysconfig.get_platform()}"
    digest = hashlib.sha256(to_json([requirements, python, image or ""]).encode()).hexdigest()[:16]
    folder = cache_folder() / "packages" / digest
    if not folder.is_dir():
        with alone(folder):
            if not folder.is_dir():  # another process may have installed it meanwhile
                if on_progress:
                    on_progress(PrepareProgress(f"install {', '.join(requirements)}", 0, 1))
                install(env, info, image, requirements, folder)
    return folder


def install(env: EnvSpec, info: SandboxInfo, image: str | None, requirements: list[str], folder: Path) -> None:
    """Let pip of the sandbox's own Python unpack the wheels, without a network; the folder appears whole.

    Raises:
        ServiceMissing: it could not.
    """
    source = wheelhouse()
    if not source.is_dir():
        raise lacking(env, info, requirements, f"there is no wheelhouse at {source}")
    with (
        store_errors(folder.parent, "write to"),
        tempfile.TemporaryDirectory(prefix=".install-", dir=folder.parent) as scratch,
    ):
        workspace = Path(scratch) / "workspace"
        workspace.mkdir()
        spec = SandboxSpec(
            workspace=workspace,
            binds=(Bind(source, WHEELHOUSE),),
            limits=Limits(disk_mib=None),
            image=image,
            name="packages",
        )
        with open_sandbox(info.backend, spec) as sandbox:
            where = ["--find-links", sandbox.path_of(WHEELHOUSE), "--target", f"{sandbox.path_of('/workspace')}/site"]
            command = [info.python, "-I", *PIP, "--only-binary", ":all:", *where, *requirements]
            result = sandbox.exec(command, timeout_s=INSTALL_S)
        if result.exit_code != 0:
            raise refused(env, info, requirements, result)
        if os.geteuid() == 0:
            files.own_tree(workspace, 0)  # commands ran as another user
        make_readable(workspace / "site")
        (workspace / "site").rename(folder)


def refused(env: EnvSpec, info: SandboxInfo, requirements: list[str], result: ExecResult) -> ServiceMissing:
    """What pip's failure means."""
    errors = [line.removeprefix("ERROR: ") for line in result.output.splitlines() if line.startswith("ERROR: ")]
    if any(text in result.output for text in NOT_THERE):
        return lacking(env, info, requirements, f"{wheelhouse()} is not complete: {errors[-1] if errors else ''}")
    last = errors or result.output.strip().splitlines() or [f"exit code {result.exit_code}"]
    hint = f"{info.python} needs pip: {info.python} -m ensurepip" if "No module named pip" in result.output else ""
    return ServiceMissing(f"the packages of environment {env.name!r} cannot be installed: {last[-1]}", hint)


def lacking(env: EnvSpec, info: SandboxInfo, requirements: list[str], why: str) -> ServiceMissing:
    """The error that says how to fill the wheelhouse."""
    version = re.match(r"Python (\d+\.\d+)", info.runtime)
    words = [sys.executable, "-m", "pip", "download", "--only-binary", ":all:"]
    words += ["--python-version", version[1]] if version else []
    command = shlex.join([*words, "--dest", str(wheelhouse()), *requirements])
    return ServiceMissing(f"environment {env.name!r} needs packages, and {why}", f"where there is a network: {command}")


def model_folder(name: str) -> str:
    """What a hub cache calls a model's folder.

    Raises:
        ConfigError: this is no model's name.
    """
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(f"env.toml: models: {name!r} is not a name like 'owner/name'")
    return f"models--{name.replace('/', '--')}"


def hub_folders() -> list[Path]:
    """Where this machine may have a hub cache, in the order in which they are looked at."""
    given = (os.environ.get("HF_HUB_CACHE"), os.environ.get("XAR_MODELS"))
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return [Path(given[0]).absolute() if given[0] else home / "hub", *([Path(given[1]).absolute()] if given[1] else [])]


def hub_with(names: list[str]) -> Path:
    """The first hub cache that holds all of these models whole.

    Raises:
        ServiceMissing: none does.
    """
    wrong: list[str] = []
    for hub in hub_folders():
        found = [f"{name}: {why}" for name in names if (why := fault_of(hub / model_folder(name)))]
        if not found:
            return hub
        wrong += found
    commands = "; ".join(f"hf download {name}" for name in names)
    raise ServiceMissing(f"a model is not in this machine's cache: {wrong[0]}", f"where there is a network: {commands}")


def fault_of(folder: Path) -> str:
    """Why a model's folder cannot be used; empty when it can."""
    if not folder.is_dir():
        return f"there is no {folder}"
    if not any((folder / "snapshots").glob("*/*")):
        return f"{folder} has no snapshot"
    inside = folder.resolve()
    for path in (folder / "snapshots").rglob("*"):
        if not path.exists():
            return f"{path} leads nowhere: the download was cut off"
        if not path.resolve().is_relative_to(inside):
            return f"{path} leads out of the model's own folder"
    return ""
