"""One model for a whole batch: episodes and plain chat share what is dear, and every request passes one meter."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from xar_agent.agent.choose import SCRIPTED_PREFIX, ModelChoice
from xar_agent.agent.guided import SLOTS, GuidedModel
from xar_agent.agent.json_actions import JsonActionModel
from xar_agent.agent.local_chat import LocalChat
from xar_agent.agent.local_files import known_model, verified
from xar_agent.agent.local_server import Completion, LocalServer
from xar_agent.agent.messages import Charge, ChatModel, ModelProtocol, ModelReply, ModelRequest
from xar_agent.agent.model import Gate, LitellmModel
from xar_agent.agent.scripted import ScriptedModel
from xar_agent.errors import Interrupted

MAX_TOKENS = 8192
"""Of an answer, set where a meter must know the worst case beforehand and the request leaves it open."""
CHAT_SLOT = SLOTS
"""The guided policy has those before it."""


class Meter(Protocol):
    """Who says whether a request may still be paid for."""

    def call(self, input_bytes: int, max_tokens: int) -> AbstractContextManager[Charge]:
        """Entered before a request is sent, left when it is answered or has failed.

        Args:
            input_bytes: of the request as JSON: no tokenizer makes more tokens of a text than it has bytes.
            max_tokens: the longest answer.

        Raises:
            BudgetReached: it may not be sent.
        """
        ...


def gate_of(meter: Meter) -> Gate:
    """What a request passes on its way to a hosted model."""

    def enter(request: ModelRequest) -> AbstractContextManager[Charge]:
        sent = {"messages": request.messages, "tools": request.tools, **request.parameters()}
        return meter.call(n_bytes(sent), request.max_tokens or MAX_TOKENS)

    return enter


class BoundedModel:
    """A model whose every answer has a longest length, so that a meter can know the worst case."""

    def __init__(self, inner: ChatModel, gate: Gate | None = None) -> None:
        """``gate`` is passed by each request; None where the inner model has one for each of its attempts."""
        self._inner = inner
        self._gate = gate
        self.name = inner.name
        self.protocol: ModelProtocol = inner.protocol

    def complete(self, request: ModelRequest) -> ModelReply:
        """The inner model's reply.

        Raises:
            BudgetReached: nothing was sent.
        """
        bounded = request if request.max_tokens is not None else replace(request, max_tokens=MAX_TOKENS)
        if self._gate is None:
            return self._inner.complete(bounded)
        with self._gate(bounded) as charge:
            reply = self._inner.complete(bounded)
            charge.settle(reply.input_tokens, reply.output_tokens, reply.cost_usd)
        return reply

    def close(self) -> None:
        """Close the model behind it."""
        self._inner.close()


class SharedServer:
    """The embedded model's server for several users: one call at a time, each through the meter.

    Closing it frees nothing: episodes close their model, and others still use the server.
    """

    def __init__(self, server: LocalServer, meter: Meter | None) -> None:
        self._server = server
        self._meter = meter
        self._lock = threading.Lock()

    def complete(
        self,
        messages: Sequence[dict[str, str]],
        *,
        slot: int,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        temperature: float = 0.0,
    ) -> Completion:
        """One answer, when it is this call's turn.

        Raises:
            BudgetReached: nothing was sent.
            Interrupted: the server was stopped for good.
        """

        def answer() -> Completion:
            with self._lock:
                return self._server.complete(
                    messages,
                    slot=slot,
                    max_tokens=max_tokens,
                    schema=schema,
                    stop=stop,
                    seed=seed,
                    temperature=temperature,
                )

        if self._meter is None:
            return answer()
        sent = {"messages": list(messages), "schema": schema}
        # The meter may wait for others' reservations: not with the lock, which they may be waiting for.
        with self._meter.call(n_bytes(sent), max_tokens) as charge:
            done = answer()
            charge.settle(done.input_tokens, done.output_tokens, 0.0)
        return done

    def close(self) -> None:
        """Nothing: see the class."""

    def rest(self) -> None:
        """Stop the server when no call is under way; the next call starts it again."""
        with self._lock:
            self._server.close()

    def end(self) -> None:
        """Stop it for good; a call under way ends with Interrupted."""
        self._server.end()
        with self._lock:
            self._server.close()


class ModelSource:
    """The models of a batch, from one choice. Usable from several threads."""

    def __init__(
        self,
        choice: ModelChoice,
        *,
        meter: Meter | None = None,
        log_dir: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started or sent yet.

        Args:
            choice: which model.
            meter: every request passes through it; None: there is no budget.
            log_dir: where the embedded model's server logs.
            environ: instead of ``os.environ``.

        Raises:
            ModelUnavailable: the embedded model's file is missing or damaged.
            ConfigError: a script cannot be read.
        """
        self.name = choice.name
        self.concurrent: int | None = None
        """How many episodes may run at once; None: any number."""
        self._choice = choice
        self._meter = meter
        self._opened: weakref.WeakSet[LitellmModel] = weakref.WeakSet()
        self._closed = False
        self._shared: SharedServer | None = None
        self._script: ScriptedModel | None = None
        if choice.kind == "local":
            path = verified(known_model(choice.name).name, environ=environ)
            log_path = log_dir / "model-server.log" if log_dir else None
            self._shared = SharedServer(LocalServer(path, slots=SLOTS + 1, log_path=log_path), meter)
            self.concurrent = 1  # two episodes would take turns in the slots and lose what they keep computed
        elif choice.kind == "scripted":
            self._script = ScriptedModel.from_file(Path(choice.name.removeprefix(SCRIPTED_PREFIX)))

    def episode(self) -> ChatModel:
        """A model for one episode. Closing it frees nothing that others use.

        Raises:
            Interrupted: the source is closed.
        """
        if self._shared is not None:
            self._check_open()
            return GuidedModel(self.name, self._shared)
        if self._script is not None:
            return self._plain()
        return JsonActionModel(self._plain(), detect=True)

    def ideator(self) -> ChatModel:
        """A model for plain chat, which takes a ``response_format`` with a JSON schema if the server does.

        Raises:
            Interrupted: the source is closed.
        """
        return self._plain()

    def rest(self) -> None:
        """Give processor and memory of the embedded model back until the next request."""
        if self._shared is not None:
            self._shared.rest()

    def close(self) -> None:
        """End it, and with Interrupted what is under way. Calling twice is fine."""
        self._closed = True
        for model in list(self._opened):
            model.close()
        if self._shared is not None:
            self._shared.end()

    def _plain(self) -> ChatModel:
        self._check_open()
        if self._shared is not None:
            return LocalChat(self.name, self._shared, slot=CHAT_SLOT)  # the server itself is metered
        gate = gate_of(self._meter) if self._meter is not None else None
        if self._script is not None:
            return BoundedModel(self._script, gate) if gate else self._script
        hosted = LitellmModel(self.name, api_base=self._choice.api_base, gate=gate)
        self._opened.add(hosted)
        return BoundedModel(hosted) if gate else hosted

    def _check_open(self) -> None:
        if self._closed:
            raise Interrupted("the model was closed")

    def __enter__(self) -> ModelSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def n_bytes(value: object) -> int:
    """Length of a JSON value in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
