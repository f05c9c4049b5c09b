"""Read ``env.toml`` into an ``EnvSpec`` and find environments by name."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from copy import copy
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from xar_agent.errors import ConfigError, UnknownName

HERE = Path(__file__).parent


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CurvePoint(Strict):
    """The baseline trained at another compute."""

    compute: float
    """Training compute as a multiple of the preset's baseline."""
    mean: float
    sd: float
    n: int


class Baseline(Strict):
    """The unchanged repository's score as a distribution over seeds, on one machine."""

    env_version: str
    evaluator_version: str
    preset: str
    machine: str
    """Processor, cores, torch version: scores of different machines are never ranked together unmarked."""
    mean: float
    sd: float
    """Sample standard deviation over seeds."""
    n: int
    values: dict[str, float]
    """Score by seed."""
    cpu_s: float
    """Median CPU seconds of one training run."""
    curve: list[CurvePoint]
    """Over compute, ascending, the 1x point included."""
    shipped: bool = False
    """True when it came with the package and was not measured on this machine."""
    carried_from: str = ""
    """Versions of environment and evaluator with which it was measured, where these are older ones (jobs/carry.py)."""
    rechecked: list[int] = Field(default_factory=list)
    """Seeds that gave the same score to the last bit with the files that it is for now."""


Constant = bool | int | float | str


class Preset(Strict):
    """One size of an environment."""

    budget: int = Field(gt=0)
    """In units of ``clock``."""
    clock: Literal["tokens", "rollouts", "seconds"]
    cpu_cap_s: float | None = None
    """Reference CPU seconds of one baseline run; the cap is scaled to this machine before the run."""
    wall_s: float = Field(gt=0, allow_inf_nan=False)
    """Loose wall-clock limit of one training run, in seconds."""
    gpus: int = Field(default=0, ge=0)
    cpus: int = Field(default=1, ge=1)
    memory: str = "2g"
    baseline: str | None = None
    """Path of the shipped baseline, relative to the environment's folder."""
    data: Literal["stream", "folder"] = "stream"
    """How training gets its data: from the host's token stream, or as a read-only folder."""
    prepare: str | None = None
    """Program that builds this preset's data; None: the environment's."""
    metric: str | None = None
    """What this preset measures; None: the environment's metric. So with ``direction``."""
    direction: Literal["min", "max"] | None = None
    constants: dict[str, dict[str, Constant]] = Field(default_factory=dict)
    """File -> name -> literal: what this preset's repository says instead, for instance a larger model."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Environment's own constants, handed to its evaluator. In the contract, ``{name}`` stands for one of them."""

    @property
    def memory_mib(self) -> int:
        """Memory limit in MiB from text such as "2g" or "512m"."""
        units = {"m": 1, "g": 1024}
        try:
            return int(self.memory[:-1]) * units[self.memory[-1].lower()]
        except (KeyError, ValueError, IndexError) as error:
            raise ConfigError(f"env.toml: memory = {self.memory!r} is not a size such as '2g' or '512m'") from error


class Wheels(Strict):
    """Packages that programs may import besides what is installed, from this machine's wheelhouse."""

    requirements: list[str] = Field(default_factory=list)
    """As pip writes them, pinned: "einops==0.8.1"."""


class EnvFile(Strict):
    """The keys of ``env.toml``."""

    name: str
    description: str
    metric: str
    direction: Literal["min", "max"]
    editable: list[str]
    """Globs of files that the agent may change or add."""
    protected: list[str]
    """Globs of files that it may not, whatever ``editable`` says."""
    smoke: list[str]
    train: list[str]
    evaluate: list[str]
    contract: str
    """What must stay true, in words for the agent."""
    prepare: str = "prepare.py"
    worker: str = "worker.py"
    preset: dict[str, Preset] = Field(min_length=1)
    wheels: Wheels = Field(default_factory=lambda: Wheels())
    models: list[str] = Field(default_factory=list)
    """Model hub names ("owner/name") that programs may read from this machine's cache, offline."""

    @field_validator("prepare", "worker", "evaluate", "train", "smoke")
    @classmethod
    def inside(cls, value: str | list[str], info: ValidationInfo) -> str | list[str]:
        """Programs are named from their folder; what follows the first word of train and smoke are arguments."""
        names = [value] if isinstance(value, str) else value
        for name in names[:1] if info.field_name in ("train", "smoke") else names:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} leads out of the environment's folder")
        return value


class EnvSpec:
    """One environment with its folder.

    ``version`` changes with whatever the agent sees, ``evaluator_version`` with whatever scores it. Metric, direction
    and evaluator version are those of the default preset until ``at`` names another.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = read_env_file(folder / "env.toml")
        self.name = self.file.name
        self.metric = self.file.metric
        self.direction = self.file.direction
        self.repo = folder / "repo"
        self.constants: dict[str, dict[str, Constant]] = {}
        """What the preset that this is bound to (``at``) says instead of the repository's literals."""
        self.version = digest_files(
            [folder / "env.toml", *sorted(p for p in self.repo.rglob("*") if p.is_file())], folder
        )
        self.evaluator_version = self._digest_evaluator(self.file.preset[self.default_preset])

    def at(self, preset: str) -> EnvSpec:
        """This environment as one preset has it: that one's metric and direction, its settings in the contract's text.

        Raises:
            UnknownName: there is no such preset.
        """
        chosen = self.preset(preset)
        contract = self.file.contract
        for name, value in chosen.settings.items():
            contract = contract.replace(f"{{{name}}}", str(value))
        bound = copy(self)
        bound.metric = chosen.metric or self.file.metric
        bound.direction = chosen.direction or self.file.direction
        bound.constants = chosen.constants
        bound.evaluator_version = self._digest_evaluator(chosen)
        changed = {"metric": bound.metric, "direction": bound.direction, "contract": contract}
        bound.file = self.file.model_copy(update=changed)
        return bound

    def preset(self, name: str) -> Preset:
        """The preset of that name.

        Raises:
            UnknownName: there is none; the hint lists those that exist.
        """
        try:
            return self.file.preset[name]
        except KeyError:
            known = ", ".join(self.file.preset)
            raise UnknownName(f"environment {self.name!r} has no preset {name!r}", f"known presets: {known}") from None

    def prepare_program(self, preset: str) -> Path:
        """The program that builds a preset's data."""
        return self.folder / (self.preset(preset).prepare or self.file.prepare)

    def _digest_evaluator(self, preset: Preset) -> str:
        trusted = {*self.file.evaluate, self.file.worker, preset.prepare or self.file.prepare}
        return digest_files(sorted(self.folder / name for name in trusted), self.folder)

    @property
    def default_preset(self) -> str:
        """The first preset of the file: the one that runs anywhere."""
        return next(iter(self.file.preset))

    def baseline_file(self, preset: str, split: Literal["val", "hidden"] = "val") -> Path | None:
        """The file of the baseline that came with the environment, whatever it was measured on; None without one.

        That of the hidden split lies beside the preset's: ``cpu.json``, ``cpu.hidden.json``.
        """
        name = self.preset(preset).baseline
        if not name:
            return None
        path = self.folder / name
        path = path.with_suffix(".hidden.json") if split == "hidden" else path
        return path if path.is_file() else None

    def shipped_baseline(self, preset: str, split: Literal["val", "hidden"] = "val") -> Baseline | None:
        """The baseline that came with the environment, if it was measured on these very files."""
        path = self.baseline_file(preset, split)
        if path is None:
            return None
        baseline = Baseline.model_validate_json(path.read_text())
        fits = (baseline.env_version, baseline.evaluator_version) == (self.version, self.at(preset).evaluator_version)
        return baseline.model_copy(update={"shipped": True}) if fits else None


def read_env_file(path: Path) -> EnvFile:
    """Parse and validate one ``env.toml``.

    Raises:
        ConfigError: it is missing, not TOML, or has a wrong or unknown key; the message names it.
    """
    try:
        return EnvFile.model_validate(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error


def digest_files(paths: list[Path], root: Path) -> str:
    """Twelve hex digits over names and contents; compiled files do not count."""
    state = hashlib.sha256()
    for path in paths:
        if "__pycache__" in path.parts or not path.is_file():
            continue
        state.update(json.dumps(path.relative_to(root).as_posix()).encode())
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()[:12]


def list_envs() -> dict[str, Path]:
    """Name -> folder of every environment.

    Shipped ones, then plug-ins (entry point ``xar_agent.environments``), then the folders in ``XAR_ENVS``.
    """
    found = {path.parent.name: path.parent for path in sorted(HERE.glob("*/env.toml"))}
    for point in entry_points(group="xar_agent.environments"):
        found[point.name] = Path(point.load()())
    for folder in filter(None, os.environ.get("XAR_ENVS", "").split(os.pathsep)):
        found[Path(folder).name] = Path(folder)
    return found


def load_env(name: str) -> EnvSpec:
    """The environment of that name, or at that path when the name has a slash.

    Raises:
        UnknownName: there is none; the hint lists those that exist.
    """
    if "/" in name:
        return EnvSpec(Path(name))
    known = list_envs()
    if name not in known:
        raise UnknownName(f"no environment is called {name!r}", f"known environments: {', '.join(sorted(known))}")
    return EnvSpec(known[name])
