"""The seam to hosted models and OpenAI-compatible servers, over litellm: one request, one reply, one bill.

litellm takes seconds and 160 MB to import, so nothing here imports it before the first request.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from xar_agent.agent.messages import Charge, ModelProtocol, ModelReply, ModelRequest, ToolCall
from xar_agent.agent.model_failures import Failed, classify, final_error, is_unbilled
from xar_agent.errors import BudgetReached, ConfigError, Interrupted, ModelUnavailable

LOCAL_KEY = "none"
"""Servers on one's own machine want no key, but the client insists on having one."""
Gate = Callable[[ModelRequest], AbstractContextManager[Charge]]
"""What each attempt passes: it is left when the attempt has ended, and told the bill where there is one."""
LOOK_S = 0.2
"""How often a thread that waits for a reply looks whether the model was closed."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a request is sent again: 429, 5xx, time-outs and connections that break."""

    attempts: int = 6
    """Requests in all."""
    first_wait_s: float = 1.0
    factor: float = 2.0
    max_wait_s: float = 60.0
    """Also the longest ``Retry-After`` that is obeyed; a longer one ends the call."""
    jitter: float = 0.25
    """Share by which a wait is made longer at random, so that parallel callers spread out."""

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after so many failures, without jitter."""
        return float(min(self.first_wait_s * self.factor ** (failures - 1), self.max_wait_s))


class LitellmModel:
    """A model named as litellm names it, with native tool calls. Usable from several threads."""

    protocol: ModelProtocol = "native"

    def __init__(
        self,
        name: str,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
        retry: RetryPolicy | None = None,
        timeout_s: float = 600.0,
        gate: Gate | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            name: such as ``openai/gpt-4.1-mini`` or ``anthropic/claude-sonnet-4-5``.
            api_base: URL of the server; None takes ``OPENAI_BASE_URL`` for ``openai/`` names, else the provider's own.
            api_key: None takes the provider's variable from the environment.
            retry: how often a request is sent again.
            timeout_s: seconds for one request.
            gate: passed by each attempt before it is sent.
        """
        self.name = name
        self.api_base = api_base or (own_server(os.environ) if name.startswith("openai/") else None)
        self.retry = retry or RetryPolicy()
        self.timeout_s = timeout_s
        self._gate = gate
        self._api_key = api_key or self._key_for_server()
        self._answered = False
        self._closed = threading.Event()

    def _key_for_server(self) -> str | None:
        if self.api_base and not os.environ.get("OPENAI_API_KEY"):
            return LOCAL_KEY
        return None

    def complete(self, request: ModelRequest) -> ModelReply:
        """One reply.

        Raises:
            ModelUnavailable: nothing answers, or the key, name or URL is wrong; the hint says what to do.
            ContextOverflow: the request is too long for this model.
            ToolsRefused: the server does not take tools.
            UnknownName: no provider is known for the name.
            BudgetReached: the gate is shut; this attempt was not sent.
            Interrupted: ``close`` was called meanwhile; whether the request is billed nobody knows.
        """
        self._closed.clear()
        litellm = load_litellm()
        started = time.monotonic()
        for attempt in range(1, self.retry.attempts + 1):
            try:
                return self._attempt(litellm, request, attempt, started)
            except (BudgetReached, Interrupted):
                raise
            except Exception as error:  # the client raises a zoo of classes: each is told apart or raised again
                failure = classify(error)
                wait_s = self._wait_before_retry(failure, attempt)
                if wait_s is None:
                    raise final_error(failure, self.name, self.api_base, attempt) from error
                if self._closed.wait(wait_s):
                    raise Interrupted("the model was closed during a wait") from error
        raise ModelUnavailable(f"{self.name}: no attempt was allowed", "set at least one attempt")

    def _attempt(self, litellm: Any, request: ModelRequest, attempt: int, started: float) -> ModelReply:
        """One request and its reply, paid for."""
        with self._gate(request) if self._gate else nullcontext() as charge:
            try:
                response = self._sent(litellm, request)
            except Exception as error:
                if charge is not None and not isinstance(error, Interrupted) and is_unbilled(error, classify(error)):
                    charge.settle(0, 0, 0.0)
                raise
            self._answered = True
            reply = parse_response(litellm, response, attempt, time.monotonic() - started)
            if charge is not None:
                charge.settle(reply.input_tokens, reply.output_tokens, reply.cost_usd)
            return reply

    def _sent(self, litellm: Any, request: ModelRequest) -> Any:
        """The provider's answer. The client waits in a thread of its own: it knows no other way to be called off."""
        answered: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def send() -> None:
            try:
                answered.put((litellm.completion(**self._arguments(request)), None))
            except BaseException as error:  # raised again in the thread that waits
                answered.put((None, error))

        threading.Thread(target=send, name="model-request", daemon=True).start()
        while True:
            try:
                response, error = answered.get(timeout=LOOK_S)
            except queue.Empty:
                if self._closed.is_set():
                    raise Interrupted("the model was closed before it answered") from None
                continue
            if error is not None:
                raise error
            return response

    def close(self) -> None:
        """End what is under way. Calling twice is fine, and a later request works again."""
        self._closed.set()

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self.name,
            "messages": request.messages,
            "timeout": self.timeout_s,
            "num_retries": 0,
            "max_retries": 0,
            **request.parameters(),
        }
        if request.tools:
            arguments["tools"] = request.tools
        if self.api_base:
            arguments["api_base"] = self.api_base
        if self._api_key:
            arguments["api_key"] = self._api_key
        return arguments

    def _wait_before_retry(self, failure: Failed, attempt: int) -> float | None:
        """Seconds until the next attempt; None when there is none."""
        if failure.kind not in {"busy", "broken"} and not (failure.kind == "unreachable" and self._answered):
            return None
        if attempt >= self.retry.attempts:
            return None
        if failure.retry_after_s is not None:
            return failure.retry_after_s if failure.retry_after_s <= self.retry.max_wait_s else None
        return self.retry.wait_s(attempt) * (1 + self.retry.jitter * random.random())


def own_server(environ: Mapping[str, str]) -> str | None:
    """URL of an OpenAI-compatible server that the user named.

    Raises:
        ConfigError: it is no URL.
    """
    url = environ.get("OPENAI_BASE_URL") or environ.get("OPENAI_API_BASE") or ""
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(f"OPENAI_BASE_URL={url!r} is not a URL", "it looks like http://localhost:8000/v1")
    return url or None


def load_litellm() -> Any:
    """Import litellm quietly: no price list from the network, no telemetry, nothing printed."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports are full of deprecations that are not ours
        import litellm
    # It asks asyncio for a loop that it never closes, and pydantic complains of its types at the first request.
    warnings.filterwarnings("ignore", message="unclosed event loop", category=ResourceWarning)
    warnings.filterwarnings("ignore", message="Item '.*' on TypedDict class", category=UserWarning)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    silence_logger()
    return litellm


def silence_logger() -> None:
    """litellm logs each failure that we classify and report ourselves."""
    import logging

    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)


def parse_response(litellm: Any, response: Any, attempts: int, latency_s: float) -> ModelReply:
    """The provider's answer as a ``ModelReply``."""
    raw = response.model_dump(mode="json")
    choice = raw["choices"][0]
    message = choice.get("message") or {}
    usage = raw.get("usage") or {}
    cost_usd, source = price(litellm, response)
    return ModelReply(
        text=clean(message.get("content")),
        tool_calls=tuple(parse_calls(message.get("tool_calls") or [])),
        finish_reason=choice.get("finish_reason") or "stop",
        input_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        reasoning_tokens=int((usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0),
        cost_usd=cost_usd,
        cost_source=source,
        attempts=attempts,
        latency_s=latency_s,
        raw=raw,
    )


def parse_calls(calls: list[dict[str, Any]]) -> Iterator[ToolCall]:
    """Tool calls as the model wrote them."""
    for call in calls:
        function = call.get("function") or {}
        yield ToolCall(call.get("id") or "", clean(function.get("name")), clean(function.get("arguments")))


def clean(text: object) -> str:
    """The text without lone surrogates, which no file can hold."""
    return "" if text is None else str(text).encode("utf-8", "replace").decode("utf-8")


def price(litellm: Any, response: Any) -> tuple[float | None, str]:
    """Cost in USD by litellm's price list, and its source; (None, "unknown") for a model that is not on it."""
    ask: Callable[..., float] = litellm.completion_cost
    try:
        cost = ask(completion_response=response)
    except Exception:  # it raises plain Exception for a model that it does not know
        return None, "unknown"
    return (float(cost), "litellm price list") if cost else (None, "unknown")


def highest_prices(name: str) -> tuple[float, float] | None:
    """USD a token of input and of output, at the dearest tier of litellm's price list; None when it is not on it."""
    litellm = load_litellm()
    try:
        known = dict(litellm.get_model_info(name))
    except Exception:  # it raises plain Exception for a model that it does not know
        return None
    dearest = [
        highest(known, "input_cost_per_token", "cache_creation_input_token_cost"),
        highest(known, "output_cost_"),
    ]
    return (dearest[0], dearest[1]) if all(dearest) else None


def highest(prices: dict[str, Any], *prefixes: str) -> float:
    """The largest price a token whose key begins so; 0 when there is none."""
    per_token = {key: value for key, value in prices.items() if key.startswith(prefixes) and "token" in key}
    return max((float(value) for value in per_token.values() if isinstance(value, int | float)), default=0.0)
