"""The litellm seam against a real server: one request, one reply, one bill; retries counted where they arrive."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from stub_server import Answer, StubServer, fail, say

from xar_agent.agent.messages import ContextOverflow, ModelReply, ModelRequest, ToolCall, ToolsRefused
from xar_agent.agent.model import LitellmModel, RetryPolicy
from xar_agent.errors import ConfigError, ModelUnavailable, UnknownName, XarError

TOOL = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "x",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
REQUEST = ModelRequest(messages=[{"role": "user", "content": "hi"}], tools=[TOOL])
QUICK = RetryPolicy(attempts=3, first_wait_s=0.01)


def ask(server: StubServer, retry: RetryPolicy = QUICK, timeout_s: float = 20) -> ModelReply:
    """One request to the stub."""
    return LitellmModel("openai/stub-model", api_base=server.url, retry=retry, timeout_s=timeout_s).complete(REQUEST)


def test_a_reply_has_its_calls_its_tokens_and_an_unknown_price() -> None:
    with StubServer([say("thinking", ("a1", "bash", {"command": "ls"}))]) as server:
        reply = ask(server)
    assert reply.tool_calls == (ToolCall("a1", "bash", '{"command": "ls"}'),)
    assert (reply.text, reply.finish_reason) == ("thinking", "tool_calls")
    assert (reply.input_tokens, reply.output_tokens, reply.cached_tokens) == (100, 10, 40)
    assert (reply.cost_usd, reply.cost_source) == (None, "unknown")


def test_nothing_is_sent_that_servers_reject() -> None:
    with StubServer([say("hi")]) as server:
        ask(server)
        assert set(server.requests[0]) == {"messages", "model", "tools"}


def test_a_model_on_the_price_list_has_a_cost() -> None:
    with StubServer([say("hi", model="gpt-4o-mini")]) as server:
        reply = ask(server)
    assert reply.cost_usd is not None
    assert 0 < reply.cost_usd < 0.001


@pytest.mark.parametrize(
    "first",
    [fail(429, "slow down"), fail(500, "boom"), fail(503, "busy"), Answer(reset=True)],
    ids=["429", "500", "503", "reset"],
)
def test_what_passes_is_tried_again_once_per_failure(first: Answer) -> None:
    with StubServer([first, say("hi")]) as server:
        reply = ask(server)
        assert (reply.text, reply.attempts, len(server.requests)) == ("hi", 2, 2)


def test_a_request_that_takes_too_long_is_sent_again() -> None:
    with StubServer([replace(say("late"), delay_s=2.0), say("hi")]) as server:
        reply = ask(server, timeout_s=0.5)
        assert (reply.text, reply.attempts, len(server.requests)) == ("hi", 2, 2)


def test_attempts_are_as_many_as_the_policy_says() -> None:
    with StubServer([fail(500, "boom")]) as server:
        with pytest.raises(ModelUnavailable, match="3 times"):
            ask(server)
        assert len(server.requests) == 3


def test_waits_double() -> None:
    assert [RetryPolicy(first_wait_s=1, max_wait_s=5).wait_s(n) for n in (1, 2, 3, 4)] == [1, 2, 4, 5]


def test_retry_after_is_obeyed_in_both_forms() -> None:
    for text, at_least in (("0.4", 0.4), (formatdate(time.time() + 2, usegmt=True), 0.5)):
        with StubServer([fail(429, "slow down", Retry_After=text), say("hi")]) as server:
            begun = time.monotonic()
            ask(server)
            assert at_least <= time.monotonic() - begun < 10


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    with StubServer([fail(429, "slow down", Retry_After="3600")]) as server:
        with pytest.raises(ModelUnavailable):
            ask(server)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (fail(401, "bad key"), ModelUnavailable, "refuses the key"),
        (fail(403, "no"), ModelUnavailable, "refuses the key"),
        (fail(404, "no such model"), ModelUnavailable, "is not there"),
        (fail(400, "This model's maximum context length is 4096 tokens"), ContextOverflow, "4096"),
        (fail(400, "this model does not support tools"), ToolsRefused, "refuses tools"),
        (fail(500, "tools param requires --jinja flag"), ToolsRefused, "refuses tools"),
        (fail(400, "strange"), ModelUnavailable, "refuses the request"),
    ],
)
def test_what_does_not_pass_is_asked_once_and_says_what_to_do(answer: Answer, kind: type[XarError], said: str) -> None:
    with StubServer([answer]) as server:
        with pytest.raises(kind, match=said) as caught:
            ask(server)
        assert len(server.requests) == 1
    assert caught.value.hint


def test_a_cut_off_reply_says_so() -> None:
    with StubServer([say("and the", finish="length")]) as server:
        assert ask(server).finish_reason == "length"


def test_an_unreachable_server_is_asked_once_and_named() -> None:
    model = LitellmModel("openai/x", api_base="http://127.0.0.1:9/v1", retry=QUICK)
    with pytest.raises(ModelUnavailable, match="cannot reach openai/x at http://127.0.0.1:9/v1.*refused") as caught:
        model.complete(REQUEST)
    assert "running" in caught.value.hint


def test_the_users_server_and_key_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer([say("hi")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        LitellmModel("openai/mine").complete(REQUEST)
        monkeypatch.setenv("OPENAI_API_KEY", "abc")
        LitellmModel("openai/mine").complete(REQUEST)
        assert [request["model"] for request in server.requests] == ["mine", "mine"]
        assert server.keys == ["Bearer none", "Bearer abc"]


def test_a_server_that_is_no_url_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL"):
        LitellmModel("openai/mine")


def test_a_name_without_a_provider_is_unknown() -> None:
    with pytest.raises(UnknownName, match="no provider"):
        LitellmModel("qwen9000").complete(REQUEST)


def test_a_missing_key_says_which_variable() -> None:
    with pytest.raises(ModelUnavailable, match="ANTHROPIC_API_KEY"):
        LitellmModel("anthropic/claude-sonnet-4-5").complete(REQUEST)


def test_the_key_is_in_no_error_message(planted_key: str) -> None:
    server = StubServer([fail(401, f"Incorrect API key provided: {planted_key}")])
    with server, pytest.raises(ModelUnavailable) as caught:
        ask(server)
    assert planted_key not in caught.value.message


def test_importing_the_seam_imports_no_litellm_and_a_first_request_prints_nothing() -> None:
    with StubServer([fail(401, "no")]) as server:
        program = (
            "import sys; from xar_agent.agent.model import LitellmModel; assert 'litellm' not in sys.modules\n"
            "from xar_agent.agent.messages import ModelRequest\n"
            f"model = LitellmModel('openai/x', api_base={server.url!r})\n"
            "try: model.complete(ModelRequest([{'role': 'user', 'content': 'hi'}]))\n"
            "except Exception as error: assert 'refuses the key' in str(error), error\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            env=dict(os.environ),
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
