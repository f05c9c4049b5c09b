"""Which model answers: a flag, the settings, a provider's key or server in the environment, else the embedded one."""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from xar_agent.agent.local_files import DEFAULT, known_model, verified
from xar_agent.agent.messages import ChatModel
from xar_agent.errors import ConfigError, ModelUnavailable, UnknownName

ModelKind = Literal["hosted", "server", "local", "scripted"]
LOCAL_PREFIX = "local/"
SCRIPTED_PREFIX = "scripted/"
"""The rest is the path of a file with replies; see ``scripted.py``."""
LIST_TIMEOUT_S = 5.0

PROVIDERS: dict[str, tuple[str, str]] = {
    "anthropic": ("ANTHROPIC_API_KEY", "anthropic/claude-sonnet-4-5"),
    "openai": ("OPENAI_API_KEY", "openai/gpt-5-mini"),
    "gemini": ("GEMINI_API_KEY", "gemini/gemini-2.5-pro"),
    "deepseek": ("DEEPSEEK_API_KEY", "deepseek/deepseek-chat"),
    "mistral": ("MISTRAL_API_KEY", "mistral/mistral-large-latest"),
}
"""Prefix of a model's name -> variable of its key, and the model that a found key stands for."""
OWN_SERVERS = frozenset({"ollama", "ollama_chat", "hosted_vllm", "lm_studio", "llamafile"})
"""Prefixes of litellm for servers on one's own machine."""
MODEL_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.:@\-]+)+")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model of a run, before anything is downloaded, started or sent."""

    name: str
    kind: ModelKind
    """``hosted``: a provider; ``server``: an OpenAI-compatible server or the like; ``local``: the embedded model;
    ``scripted``: a file of replies."""
    source: str
    """What decided, for a person."""
    line: str
    """For stderr: which model, why, and what it is good for."""
    api_base: str | None = None
    """URL of the server where one was named."""


def choose_model(
    flag: str | None,
    *,
    configured: str | None = None,
    api_base: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> ModelChoice:
    """The first that is set: flag, ``XAR_MODEL``, xar.toml, a server or key in the environment, the embedded model.

    Args:
        flag: ``--model``.
        configured: ``model`` of the settings, in which flag and ``XAR_MODEL`` may already have been looked at.
        api_base: ``api_base`` of the settings.
        environ: instead of ``os.environ``.

    Raises:
        UnknownName: no model can have that name.
        ConfigError: ``OPENAI_BASE_URL`` is no URL, or its server has several models and none was named.
        ModelUnavailable: the named provider's key is not set, or the server does not answer.
    """
    source = os.environ if environ is None else environ
    base = server_url(api_base, source)
    in_environ = source.get("XAR_MODEL")
    settled = "XAR_MODEL" if configured == in_environ else "as set"
    for name, origin in ((flag, "--model"), (configured, settled), (in_environ, "XAR_MODEL")):
        if name is not None and (name.strip() or origin == "--model"):
            return named_choice(name.strip(), origin, base if is_openai(name) else server_url(api_base, {}), source)
    if base:
        return choice_of(f"openai/{only_model(base, source)}", "server", "the server's only model", base)
    for variable, default in PROVIDERS.values():
        if source.get(variable):
            return choice_of(default, "hosted", f"{variable} is set", None)
    return choice_of(f"{LOCAL_PREFIX}{DEFAULT}", "local", "no model was named and no key was found", None)


def is_openai(name: str) -> bool:
    """The name says OpenAI's protocol: ``OPENAI_BASE_URL`` is meant for these, and for no other server's."""
    return name.strip().startswith("openai/")


def named_choice(name: str, origin: str, base: str | None, environ: Mapping[str, str]) -> ModelChoice:
    """The choice for a name that the user gave; ``base`` is the server that was named for such a model."""
    if name.startswith(LOCAL_PREFIX):
        return choice_of(f"{LOCAL_PREFIX}{known_model(name).name}", "local", origin, None)
    if name.startswith(SCRIPTED_PREFIX):
        return choice_of(name, "scripted", origin, None)
    prefix = name.split("/")[0]
    if not MODEL_NAME.fullmatch(name):
        raise UnknownName(
            f"{name!r} is not the name of a model ({origin})",
            f"write PROVIDER/NAME such as openai/gpt-5-mini or openai/NAME for a server at OPENAI_BASE_URL, "
            f"or {LOCAL_PREFIX}{DEFAULT}",
        )
    if prefix in OWN_SERVERS or (base and prefix == "openai"):
        return choice_of(name, "server", origin, base)
    variable = PROVIDERS.get(prefix, ("", ""))[0]
    if variable and not environ.get(variable):
        raise ModelUnavailable(
            f"{name} ({origin}) needs {variable}, which is not set",
            f"export {variable}=..., or choose {LOCAL_PREFIX}{DEFAULT}, which needs no key",
        )
    return choice_of(name, "hosted", origin, None)


def choice_of(name: str, kind: ModelKind, source: str, base: str | None) -> ModelChoice:
    """The choice with its line."""
    match kind:
        case "local":
            model = known_model(name)
            words = f"{model.good_for} (--model PROVIDER/NAME uses another)"
        case "server":
            words = f"served at {base or 'its usual address'}; cost is not known"
        case "scripted":
            words = "follows a file of replies, whatever the idea says"
        case "hosted":
            words = "hosted: the idea and the environment's code are sent there, and its use is billed"
    return ModelChoice(name, kind, source, f"model {name} ({source}): {words}", base)


def server_url(api_base: str | None, environ: Mapping[str, str]) -> str | None:
    """URL of the user's own OpenAI-compatible server, if one is named.

    Raises:
        ConfigError: it is no URL.
    """
    settings = {"api_base": api_base, **{name: environ.get(name) for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE")}}
    origin, value = next(((name, text) for name, text in settings.items() if text), ("", ""))
    url = value.strip().rstrip("/")
    if url and not is_url(url):
        raise ConfigError(f"{origin}={url!r} is not a URL", "it looks like http://localhost:8000/v1")
    return url or None


def is_url(text: str) -> bool:
    """An address of a web server, with a port that there can be."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and not re.search(r"\s", text)
        )
    except ValueError:
        return False


def only_model(base: str, environ: Mapping[str, str]) -> str:
    """The model that a server has, when it has one.

    Raises:
        ModelUnavailable: it does not answer.
        ConfigError: it has several, or does not tell.
    """
    headers = {"Authorization": f"Bearer {environ.get('OPENAI_API_KEY') or 'none'}"}
    request = urllib.request.Request(f"{base}/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=LIST_TIMEOUT_S) as response:
            names = [str(entry["id"]) for entry in json.load(response)["data"]]
    except urllib.error.HTTPError as error:
        raise ConfigError(
            f"the server at {base} does not list its models ({error.code})", "name one: --model openai/NAME"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ModelUnavailable(
            f"the server at {base} does not answer: {reason}", "start it, or unset OPENAI_BASE_URL"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the server at {base} does not list its models", "name one: --model openai/NAME") from error
    if len(names) != 1:
        shown = ", ".join(f"openai/{name}" for name in names[:5]) or "none"
        raise ConfigError(f"the server at {base} has {len(names)} models: {shown}", "name one with --model")
    return names[0]


def open_model(
    choice: ModelChoice, *, log_dir: Path | None = None, environ: Mapping[str, str] | None = None
) -> ChatModel:
    """The model ready for its first request. Nothing is started or sent before that; ``close`` frees what it holds.

    Raises:
        ModelUnavailable: the embedded model's file is missing or damaged.
        ConfigError: a script cannot be read.
    """
    if choice.kind == "local":
        from xar_agent.agent.guided import SLOTS, GuidedModel
        from xar_agent.agent.local_server import LocalServer

        path = verified(known_model(choice.name).name, environ=environ)
        log_path = log_dir / "model-server.log" if log_dir else None
        return GuidedModel(choice.name, LocalServer(path, slots=SLOTS, log_path=log_path))
    if choice.kind == "scripted":
        from xar_agent.agent.scripted import ScriptedModel

        return ScriptedModel.from_file(Path(choice.name.removeprefix(SCRIPTED_PREFIX)))
    from xar_agent.agent.json_actions import JsonActionModel
    from xar_agent.agent.model import LitellmModel

    return JsonActionModel(LitellmModel(choice.name, api_base=choice.api_base), detect=True)
