"""``evolve`` with a model behind HTTP: a server that stalls, one that is not there, one that goes away."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_server import Answer, StubServer, say

from xar_agent.store import read_lines

SEARCH = ("evolve", "--env", "toy", "--policy", "paper", "--model", "openai/stub", "--ideas", "2", "--epochs", "1")


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    """A server that takes a minute for each answer."""
    stub = StubServer([Answer(say("later").body, delay_s=60)])
    monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield stub
    stub.server.shutdown()
    stub.server.server_close()


@pytest.mark.bwrap
@pytest.mark.usefixtures("user_cache")
def test_ctrl_c_does_not_wait_for_a_reply_that_is_on_its_way(xar: Any, runs_dir: Path, stalling: StubServer) -> None:
    child = xar.start(*SEARCH, "--run", "r")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not stalling.requests:
        time.sleep(0.05)
    assert stalling.requests
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert time.monotonic() - began < 20
    assert "--run r goes on" in err


@pytest.mark.bwrap
@pytest.mark.usefixtures("user_cache")
def test_the_time_budget_does_not_wait_for_a_reply_either(xar: Any, runs_dir: Path, stalling: StubServer) -> None:
    began = time.monotonic()
    ended = xar(*SEARCH, "--run", "r", "--budget-hours", str(15 / 3600), "--json", timeout_s=90)
    assert time.monotonic() - began < 35
    assert ended.code == 1
    assert "hours is used up" in ended.json["stopped"]
    (reserved,) = [line for line in read_lines(runs_dir / "r" / "ledger.jsonl") if "settle" in line]
    assert reserved["tokens"] > 8192  # nobody knows whether the cut-off call is billed


@pytest.mark.bwrap
@pytest.mark.usefixtures("user_cache")
def test_a_server_that_is_not_there_is_told_at_once(xar: Any, runs_dir: Path) -> None:
    ended = xar(*SEARCH, env={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": "none"})
    assert ended.code == 3
    assert "no server answers at http://127.0.0.1:9/v1" in ended.error_lines[-1]
    assert list(runs_dir.iterdir()) == []
