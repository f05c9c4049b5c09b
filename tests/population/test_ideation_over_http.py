"""Ideation through the real seam: what a server is sent, what it may refuse, what is charged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from proposing import SEED, TITLES, answer, propose
from stub_server import Answer, StubServer, fail, say
from till import Till

from xar_agent.agent.choose import ModelChoice
from xar_agent.agent.sources import MAX_TOKENS, ModelSource
from xar_agent.errors import BudgetReached, ModelUnavailable
from xar_agent.population.budget import Amount, Budget, Ledger
from xar_agent.population.meter import BudgetMeter
from xar_agent.store import read_lines


def source(server: StubServer, till: Till) -> ModelSource:
    return ModelSource(ModelChoice("openai/stub", "server", "test", "", server.url), meter=till)


def test_a_server_that_refuses_the_schema_is_asked_without_and_never_again_with_it(tmp_path: Path) -> None:
    refusal = fail(400, "response_format is not supported here")
    script = [refusal, say(answer(*TITLES[:10]).text), say(answer(TITLES[10]).text)]
    till = Till()
    with StubServer(script) as server, source(server, till) as models:
        ideas = propose(tmp_path, models.ideator(), (SEED,) * 11)
        assert len(ideas) == 11
        assert ["response_format" in request for request in server.requests] == [True, False, False]
        assert all(request["max_tokens"] == MAX_TOKENS for request in server.requests)
        assert till.bills == [(0, 0, 0.0), (100, 10, None), (100, 10, None)], "a refusal costs nothing"
        assert len(till.asked) == 3
        assert propose(tmp_path, models.ideator(), (SEED,) * 11) == ideas
        assert len(server.requests) == 3, "all of it, the refusal too, is on record"


def test_a_proposal_that_the_budget_ends_sends_nothing_more_and_goes_on_later(tmp_path: Path) -> None:
    with StubServer([say(answer(*TITLES[:10]).text), say(answer(TITLES[10]).text)]) as server:
        till = Till(room=1)
        with source(server, till) as models, pytest.raises(BudgetReached):
            propose(tmp_path, models.ideator(), (SEED,) * 11)
        assert len(server.requests) == len(till.bills) == 1
        more = Till(room=1)
        with source(server, more) as models:
            assert len(propose(tmp_path, models.ideator(), (SEED,) * 11)) == 11
        assert len(server.requests) == 2
        assert len(more.bills) == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_request_that_no_model_saw_costs_nothing(tmp_path: Path, status: int) -> None:
    ledger = Ledger(tmp_path, Budget(tokens=20_000))
    meter = BudgetMeter(ledger, (0.0, 0.0), threading.Event())
    with StubServer([fail(status, "no")]) as server:
        choice = ModelChoice("openai/stub", "server", "test", "", server.url)
        with ModelSource(choice, meter=meter) as models, pytest.raises(ModelUnavailable):
            propose(tmp_path, models.ideator(), (SEED,))
    assert ledger.spent == Amount()


def test_each_attempt_of_a_request_is_paid_for_and_one_that_the_server_refused_is_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget())
    meter = BudgetMeter(ledger, (0.0, 0.0), threading.Event())
    good = say(answer(*TITLES[:1]).text)
    with StubServer([fail(500, "busy"), fail(429, "slow down"), Answer(reset=True), good]) as server:
        choice = ModelChoice("openai/stub", "server", "test", "", server.url)
        with ModelSource(choice, meter=meter) as models:
            propose(tmp_path, models.ideator(), (SEED,))
        assert len(server.requests) == 4
    lines = read_lines(tmp_path / "ledger.jsonl")
    held = [line["tokens"] for line in lines if "reserve" in line]
    booked = [line["tokens"] for line in lines if "settle" in line]
    assert len(held) == len(booked) == 4
    assert booked == [0, 0, held[2], 110]  # of a connection that broke nobody knows: its worst case
    assert ledger.spent.tokens == sum(booked)
