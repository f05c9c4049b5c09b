"""One model for a batch: what is shared, what is charged, what closing ends."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from till import Till

from xar_agent.agent.choose import ModelChoice
from xar_agent.agent.guided import SLOTS
from xar_agent.agent.local_chat import LocalChat, schema_of
from xar_agent.agent.local_server import LocalServer
from xar_agent.agent.messages import ModelRequest, Situated
from xar_agent.agent.sources import CHAT_SLOT, MAX_TOKENS, ModelSource, SharedServer
from xar_agent.errors import BudgetReached, ConfigError, Interrupted, ModelUnavailable

STUB = Path(__file__).with_name("stub_model_program.py")
ASK = ModelRequest([{"role": "user", "content": "hi"}])
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.fixture
def scripted(tmp_path: Path) -> ModelChoice:
    """A script whose only reply has a bill."""
    path = tmp_path / "s.json"
    bill = {"input_tokens": 7, "output_tokens": 3, "cost_usd": 0.5}
    path.write_text(json.dumps({"replies": [{"text": "one", **bill}]}))
    return ModelChoice(f"scripted/{path}", "scripted", "test", "")


def local(tmp_path: Path, text: str = "answer") -> LocalServer:
    pytest.importorskip("xllamacpp", reason="the embedded model's server is not installed")
    path = tmp_path / "stub.gguf"
    path.write_text(text)
    return LocalServer(path, program=STUB, slots=SLOTS + 1, threads=1)


def test_every_request_is_charged_and_has_a_largest_answer(scripted: ModelChoice) -> None:
    till = Till(room=2)
    with ModelSource(scripted, meter=till) as models:
        assert models.concurrent is None
        assert models.episode().complete(ASK).text == "one"
        assert models.ideator().complete(ModelRequest(ASK.messages, max_tokens=5)).text == "one"
        with pytest.raises(BudgetReached):
            models.episode().complete(ASK)
    assert [max_tokens for _, max_tokens in till.asked] == [MAX_TOKENS, 5]
    assert all(input_bytes > len(json.dumps(ASK.messages)) for input_bytes, _ in till.asked)
    assert till.bills == [(7, 3, 0.5)] * 2


def test_a_request_without_a_budget_is_sent_as_it_is(scripted: ModelChoice) -> None:
    with ModelSource(scripted) as models:
        model = models.ideator()
        model.complete(ASK)
        assert model.requests == [ASK]  # type: ignore[attr-defined]


def test_a_metered_model_does_not_ask_for_the_repository(scripted: ModelChoice) -> None:
    with ModelSource(scripted, meter=Till()) as models:
        assert not isinstance(models.episode(), Situated)


def test_a_closed_source_gives_no_more_models(scripted: ModelChoice) -> None:
    models = ModelSource(scripted)
    models.close()
    models.close()
    with pytest.raises(Interrupted):
        models.episode()
    with pytest.raises(Interrupted):
        models.ideator()


def test_a_hosted_model_is_a_new_one_for_each_episode_and_speaks_both_protocols() -> None:
    with ModelSource(ModelChoice("openai/x", "server", "test", "", "http://127.0.0.1:9/v1")) as models:
        first, second = models.episode(), models.episode()
        assert first is not second
        assert (first.protocol, models.ideator().protocol, first.name) == ("native", "native", "openai/x")


def test_what_cannot_be_opened_is_said_at_once(cache_dir: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not been fetched"):
        ModelSource(ModelChoice("local/qwen2.5-coder-1.5b", "local", "test", ""), environ={})
    with pytest.raises(ConfigError, match="cannot read"):
        ModelSource(ModelChoice("scripted/none.json", "scripted", "test", ""))


def test_plain_chat_names_its_slot_and_passes_schema_seed_and_temperature_on(tmp_path: Path) -> None:
    till = Till()
    server = SharedServer(local(tmp_path), till)
    model = LocalChat("local/stub", server, slot=CHAT_SLOT)
    request = ModelRequest(ASK.messages, max_tokens=5, temperature=0.5, seed=3, response_format=FORMAT, stop=["x"])
    reply = model.complete(request)
    asked = json.loads(reply.text)["asked"]
    assert (asked["id_slot"], asked["max_tokens"], asked["temperature"], asked["seed"]) == (SLOTS, 5, 0.5, 3)
    assert (asked["stop"], asked["response_format"]["json_schema"]["schema"]) == (["x"], {"type": "object"})
    assert (reply.input_tokens, reply.output_tokens, reply.cost_usd) == (7, 3, 0.0)
    assert till.bills == [(7, 3, 0.0)]
    assert json.loads(model.complete(ASK).text)["settings"]["slots"] == SLOTS + 1
    server.end()


def test_an_episode_that_closes_its_model_leaves_the_server_to_the_others_and_rest_stops_it(tmp_path: Path) -> None:
    inner = local(tmp_path)
    server = SharedServer(inner, None)
    model = LocalChat("local/stub", server, slot=CHAT_SLOT)
    model.complete(ASK)
    pid = inner.pid
    model.close()
    server.close()
    assert inner.pid == pid is not None
    server.rest()
    assert inner.pid is None
    model.complete(ASK)
    assert inner.pid not in {None, pid}
    server.end()
    assert inner.pid is None
    with pytest.raises(Interrupted):
        model.complete(ASK)


def test_nothing_is_sent_to_the_local_server_without_room_in_the_budget(tmp_path: Path) -> None:
    inner = local(tmp_path)
    with pytest.raises(BudgetReached):
        LocalChat("local/stub", SharedServer(inner, Till(room=0)), slot=CHAT_SLOT).complete(ASK)
    assert inner.pid is None


def test_ending_the_server_ends_a_call_that_is_under_way(tmp_path: Path) -> None:
    inner = local(tmp_path, "sleep")
    server = SharedServer(inner, None)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            LocalChat("local/stub", server, slot=CHAT_SLOT).complete(ASK)
        except Interrupted as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / "stub.gguf.asked").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    server.end()
    thread.join(timeout=10)
    assert time.monotonic() - began < 5
    assert len(raised) == 1
    assert inner.pid is None


@pytest.mark.parametrize("wanted", [None, {}, {"type": "json_object"}, {"json_schema": {"schema": 5}}])
def test_a_format_without_a_schema_asks_for_nothing(wanted: dict[str, object] | None) -> None:
    assert schema_of(wanted) is None
