"""The embedded model's server: a child process on loopback that dies with us, and the calls to it."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from xar_agent.agent.messages import ContextOverflow
from xar_agent.errors import Interrupted, ModelUnavailable

CHILD = Path(__file__).with_name("local_child.py")
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
START_TIMEOUT_S = 300.0  # reading 1.1 GB from a slow disk
CALL_TIMEOUT_S = 900.0  # a cold prompt on a loaded machine takes minutes
LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of the local server."""

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    """Of ``input_tokens``, those whose computation was reused."""
    latency_s: float


def default_threads() -> int:
    """One core is left for the rest: two threads on a loaded two-core machine were ten times slower than one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LocalServer:
    """A model file served over HTTP on 127.0.0.1, started when first used.

    Nobody else on the machine can use it: each start makes a new key, which the child gets through a pipe.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        threads: int | None = None,
        context_tokens: int = 4096,
        slots: int = 3,
        log_path: Path | None = None,
        program: Path = CHILD,
    ) -> None:
        self.model_path = model_path
        self.threads = threads or default_threads()
        self.context_tokens = context_tokens
        self.slots = slots
        self.log_path = log_path
        self.program = program
        self._child: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._url = ""
        self._key = ""
        self._ended = threading.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._child.pid if self._child else None

    def start(self) -> str:
        """Start it unless it runs, wait until it answers, and return its base URL.

        Raises:
            ModelUnavailable: the server is not installed, or it ended while loading; the hint has its last words.
            Interrupted: ``end`` was called.
        """
        self._check_ended()
        if self._child is not None and self._child.poll() is None:
            return self._url
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelUnavailable(
                "the embedded model needs the package xllamacpp", "pip install 'xar-agent[local]', or choose --model"
            )
        self.close()
        self._key = secrets.token_urlsafe(24)
        self._log = self.log_path.open("ab+") if self.log_path else tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(self.program), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            start_new_session=True,  # Ctrl-C is ours to handle; the child ends when we close its stdin
        )
        self._url = self._await_address(self._child)
        if self._ended.is_set():  # it was called just before the child was there to kill
            self.close()
        self._check_ended()
        return self._url

    def _await_address(self, child: subprocess.Popen[bytes]) -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        settings = {
            "model": str(self.model_path),
            "key": self._key,
            "threads": self.threads,
            "context_tokens": self.context_tokens,
            "slots": self.slots,
        }
        try:
            child.stdin.write(json.dumps(settings).encode() + b"\n")
            child.stdin.flush()
            readable, _, _ = select.select([child.stdout], [], [], START_TIMEOUT_S)
            line = child.stdout.readline() if readable else b""
        except BrokenPipeError:
            line = b""
        except BaseException:  # Ctrl-C while loading: leave no process behind
            self.close()
            raise
        if not line:
            tail = self.log_tail()
            self.close()
            self._check_ended()
            raise ModelUnavailable(f"the server of {self.model_path.name} did not start", f"its last words: {tail}")
        return str(json.loads(line)["url"])

    def log_tail(self) -> str:
        """The end of the server's log in one line."""
        if self._log is None:
            return ""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").split("\n")
        return " / ".join(line.strip() for line in lines[-4:] if line.strip())

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
        """Answer to a chat, greedy by default; requests with one beginning should name one slot: it stays computed.

        Raises:
            ContextOverflow: it does not fit the context window.
            ModelUnavailable: the server died twice, or refused the call.
            Interrupted: ``end`` was called.
        """
        body: dict[str, Any] = {
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "id_slot": slot,
            "cache_prompt": True,
            "stop": list(stop),
        }
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
        started = time.monotonic()
        reply = self._post_with_restart(body)
        usage = reply["usage"]
        return Completion(
            text=reply["choices"][0]["message"].get("content") or "",
            finish_reason=reply["choices"][0].get("finish_reason") or "stop",
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            cached_tokens=usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
            latency_s=time.monotonic() - started,
        )

    def _post_with_restart(self, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in (1, 2):
            address = urlsplit(self.start())
            try:
                return self._post(address.hostname or "127.0.0.1", address.port or 80, body)
            except (OSError, http.client.HTTPException) as error:
                tail = self.log_tail()
                self.close()
                self._check_ended()
                if attempt == 2:
                    raise ModelUnavailable(
                        f"the local model server stopped answering: {error}", f"its last words: {tail}"
                    ) from error
        raise AssertionError("unreachable")

    def _post(self, host: str, port: int, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(host, port, timeout=CALL_TIMEOUT_S)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status == 200:
            reply: dict[str, Any] = json.loads(text)
            return reply
        kind = ContextOverflow if "context" in text and "exceed" in text else ModelUnavailable
        raise kind(f"the local model server refused a call ({response.status}): {text[:300]}")

    def close(self) -> None:
        """Stop it and give its processor and memory back; the next call starts it again."""
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.kill()  # it holds nothing worth saving
            child.wait()
            child.stdin.close()
            child.stdout.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def end(self) -> None:
        """Stop it for good, from any thread: a call under way in another one ends at once with Interrupted."""
        self._ended.set()
        child = self._child
        if child is not None:
            child.kill()  # only this: the thread that is in a call frees the rest

    def _check_ended(self) -> None:
        if self._ended.is_set():
            raise Interrupted("the local model server was stopped")

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
