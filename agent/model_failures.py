"""What a failed request means: whether it may pass if sent again, and what the user can do."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from xar_agent.agent.messages import ContextOverflow, RequestRefused, ToolsRefused
from xar_agent.errors import ModelUnavailable, UnknownName, XarError
from xar_agent.redact import redact

OVERFLOW_WORDS = (
    "context length",
    "context window",
    "context_length",
    "context size",
    "maximum context",
    "too many tokens",
    "prompt is too long",
)
TOOL_WORDS = ("tool", "function call")
REFUSAL_WORDS = (
    "support",
    "unrecognized",
    "unknown",
    "not allowed",
    "not permitted",
    "unexpected",
    "extra",
    "enable-auto-tool-choice",
)

TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500

Kind = Literal["busy", "broken", "unreachable", "key", "name", "unnamed", "overflow", "tools", "request"]
"""busy: 429, 5xx or a time-out; broken: the connection; unnamed: no provider is known for the model's name."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that failed, told apart."""

    kind: Kind
    message: str
    retry_after_s: float | None = None


def classify(error: Exception) -> Failed:
    """What went wrong, from the status code and the chain of causes.

    Raises:
        Exception: the error itself, when it is none of the client's.
    """
    status = getattr(error, "status_code", None)
    if status is None and not type(error).__module__.startswith(("litellm", "openai", "httpx")):
        raise error
    kind = kind_of(error, status, str(error).lower())
    message = first_sentence(deepest(error) if kind == "unreachable" else error)
    return Failed(kind, message, retry_after(error) if kind == "busy" else None)


def kind_of(error: Exception, status: object, text: str) -> Kind:
    """The ``Failed.kind`` of an error."""
    name = type(error).__name__
    causes = [type(cause).__name__ for cause in chain(error)]
    if name == "ContextWindowExceededError" or (status in {400, 413, 422} and any(w in text for w in OVERFLOW_WORDS)):
        return "overflow"
    if "llm provider not provided" in text:
        return "unnamed"
    if status in {401, 403}:
        return "key"
    if status == 404:
        return "name"
    if "ConnectError" in causes or "ConnectTimeout" in causes:
        return "unreachable"
    if any(c in {"ReadError", "RemoteProtocolError", "WriteError", "ConnectionResetError"} for c in causes):
        return "broken"
    if "jinja" in text and "tools" in text:  # llama.cpp's server says so with a 500
        return "tools"
    if status in {408, 409, 429} or "Timeout" in name or (isinstance(status, int) and status >= 500):
        return "busy"
    if name == "APIConnectionError":
        return "broken"
    if status in {400, 422} and any(w in text for w in TOOL_WORDS) and any(w in text for w in REFUSAL_WORDS):
        return "tools"
    return "request"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def deepest(error: BaseException) -> BaseException:
    """The first cause: it names what the network said."""
    *_, last = chain(error)
    return last


def retry_after(error: Exception) -> float | None:
    """Seconds that the server asks to wait, from ``Retry-After`` in either form."""
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    text = str(headers.get("retry-after") or "").strip()
    if not text:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def is_unbilled(error: Exception, failure: Failed) -> bool:
    """No model has answered for certain: refused, or not reached. Of a time-out or a broken connection nobody knows."""
    if failure.kind == "busy":
        status = getattr(error, "status_code", None)
        return isinstance(status, int) and (status == TOO_MANY_REQUESTS or status >= SERVER_ERROR)
    return failure.kind != "broken"


def first_sentence(error: BaseException) -> str:
    """The error's first line without litellm's own prefixes, at most 300 characters."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    while line.startswith("litellm.") and ": " in line:
        line = line.partition(": ")[2]
    return line.replace("OpenAIException - ", "")[:300]


def final_error(failure: Failed, name: str, api_base: str | None, attempts: int) -> XarError:
    """The error that ends the call, with what to do."""
    where = f"{name} at {api_base}" if api_base else name
    said = redact(failure.message)
    match failure.kind:
        case "overflow":
            return ContextOverflow(said, "use a model with a longer context")
        case "tools":
            return ToolsRefused(f"{where} refuses tools: {said}", "the JSON protocol works without them")
        case "unreachable":
            return ModelUnavailable(f"cannot reach {where}: {said}", "is the server running, and is its URL right?")
        case "key":
            return ModelUnavailable(f"{where} refuses the key: {said}", "check the provider's API key variable")
        case "name":
            return ModelUnavailable(f"{where} is not there: {said}", "check the model's name and OPENAI_BASE_URL")
        case "unnamed":
            hint = "name it as PROVIDER/MODEL, such as openai/gpt-4.1-mini or ollama_chat/qwen3"
            return UnknownName(f"no provider is known for the model {name!r}", hint)
        case "request":
            return RequestRefused(f"{where} refuses the request: {said}", "check that the model takes chat requests")
        case _:
            times = "once" if attempts == 1 else f"{attempts} times"
            return ModelUnavailable(f"{where} failed {times}: {said}", "try later, or use another model")
