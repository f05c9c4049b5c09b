"""The user's settings: one TOML file, then the environment, then flags; each later one wins.

The file is ``xar.toml`` in the working directory, else ``~/.config/xar-agent/xar.toml``. Keys of model providers never
belong in it: they are read from the environment when a model is opened, and are stored nowhere.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xar_agent.errors import ConfigError
from xar_agent.redact import SECRET_NAME, redact

FILE_NAME = "xar.toml"
ENVIRONMENT = {
    "XAR_MODEL": "model",
    "XAR_API_BASE": "api_base",
    "XAR_RUNS": "runs_dir",
    "XAR_CACHE": "cache_dir",
    "XAR_SANDBOX": "sandbox",
    "XAR_IMAGE": "image",
    "XAR_DATA_SOURCE": "data",
}
"""Environment variable -> key. An empty value counts as not set."""

Sandbox = Literal["auto", "docker", "bubblewrap", "process"]

IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")


class Settings(BaseModel):
    """Everything a user can set once; None means "not set" and, for budgets, "no limit"."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    model: str | None = None
    """A litellm name such as ``openai/gpt-5-mini``, or ``local/qwen2.5-coder-1.5b``."""
    api_base: str | None = None
    """URL of an OpenAI-compatible server."""
    env: str = "nanogpt"
    preset: str | None = None
    """None: the environment's first."""
    sandbox: Sandbox = "auto"
    """``auto``: Docker when its engine answers and the image is there, else bubblewrap."""
    image: str | None = None
    """Container image of the Docker sandbox, such as ``my-lab/train:2``; the other sandboxes run this machine's Python.

    None: ``xar-agent:gpu`` where the preset wants GPUs, else ``xar-agent:cpu``; Dockerfile.gpu makes both.
    """
    data: str | None = None
    """Raw material of the data set: a file, a folder, or ``hub:OWNER/DATASET``.

    None: what the environment downloads by itself. docs/data.md says what each environment takes.
    """
    seeds: int = Field(1, ge=1, le=100)
    """How many training seeds each patch gets."""
    max_steps: int = Field(60, ge=1, le=1000)
    """Tool calls in one episode."""
    repairs: int = Field(1, ge=0, le=10)
    """How often a full run that crashed goes back to the agent with its log."""
    budget_usd: float | None = Field(None, gt=0)
    budget_tokens: int | None = Field(None, gt=0)
    """Input and output tokens together."""
    budget_hours: float | None = Field(None, gt=0)
    """Wall-clock hours of the whole command; of a batch, over all commands that worked on it."""
    budget_gpu_hours: float | None = Field(None, gt=0)
    """GPU-hours of a batch's training and scoring."""
    policy: str = "paper"
    """How a batch chooses parents."""
    epochs: int = Field(3, ge=1, le=1000)
    ideas: int = Field(8, ge=1, le=10_000)
    """Ideas in each epoch of a batch."""
    parallel: int | None = Field(None, ge=1, le=1000)
    """Ideas at a time; None: as many as the machine takes."""
    runs_dir: Path = Path("runs")
    cache_dir: Path = Field(default_factory=lambda: Path.home() / ".cache" / "xar-agent")

    @field_validator("runs_dir", "cache_dir")
    @classmethod
    def absolute(cls, path: Path) -> Path:
        """Home expanded and made absolute, so that a later ``cd`` changes nothing."""
        return path.expanduser().absolute()

    @field_validator("data")
    @classmethod
    def absolute_unless_remote(cls, source: str | None) -> str | None:
        """A path as ``absolute`` makes it; the name of a data set on a hub as it is."""
        return source if source is None or source.startswith("hub:") else str(cls.absolute(Path(source)))

    @field_validator("image")
    @classmethod
    def image_reference(cls, value: str | None) -> str | None:
        """What an engine can take for an image's name; a leading dash or a blank is a slip."""
        if value is not None and not IMAGE.fullmatch(value):
            raise ValueError("is not the name of an image, such as xar-agent:cpu or registry.lab/train@sha256:...")
        return value

    @field_validator("model", "api_base", "image", "data")
    @classmethod
    def without_secrets(cls, value: str | None) -> str | None:
        """They are written into run.json; a key inside a name or URL would be stored with them."""
        if value is not None and redact(value, ()) != value:
            raise ValueError("looks like it holds a key; keys belong in the environment")
        return value


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """The settings in force.

    Args:
        flags: key -> value from the command line; None values count as not given.
        file: instead of the xar.toml that would be found.
        environ: instead of ``os.environ``.
        cwd: instead of the working directory.

    Raises:
        ConfigError: an unknown key or a bad value; the message names the key and where it stands.
    """
    source = os.environ if environ is None else environ
    path = file or settings_file(source, cwd or Path.cwd())
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    layers: list[tuple[dict[str, Any], dict[str, str]]] = []
    in_file = read_settings_file(path) if path else {}
    layers.append((in_file, {key: f"{path}: {key}" for key in in_file}))
    in_environ = {key: name for name, key in ENVIRONMENT.items() if source.get(name)}
    layers.append(({key: source[name] for key, name in in_environ.items()}, in_environ))
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    layers.append((given, {key: "--" + key.replace("_", "-") for key in given}))
    for layer, names in layers:
        values.update(layer)
        origin.update(names)
    return validated(values, origin)


def validated(values: Mapping[str, Any], origin: Mapping[str, str]) -> Settings:
    """The settings made of these values; ``origin`` says for each key where it came from."""
    try:
        # Flags and TOML carry types, environment variables do not: pydantic's lax mode takes both.
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        where = origin.get(key, key)
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}: there is no such setting", unknown_hint(key)) from error
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{where}: {reason[:1].lower()}{reason[1:]}", f"it is {first_line(first['input'])}"
        ) from error


def unknown_hint(key: str) -> str:
    """What to do about a key that does not exist."""
    if SECRET_NAME.search(key):
        return "keys are never stored: export the provider's own variable, for instance OPENAI_API_KEY"
    return f"known settings: {', '.join(Settings.model_fields)}"


def first_line(value: object) -> str:
    """A value for an error message: short, on one line, without secrets."""
    text = redact(repr(value)).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."


def settings_file(environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The one file in force: the working directory's, else the user's, else None."""
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    candidates = (cwd / FILE_NAME, config / "xar-agent" / FILE_NAME)
    return next((path for path in candidates if path.is_file()), None)


def read_settings_file(path: Path) -> dict[str, Any]:
    """The file as a table.

    Raises:
        ConfigError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", "fix it, or move it away") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "fix it, or move it away") from error
