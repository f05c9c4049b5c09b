"""The token stream hands out each token once and withstands its clients."""

from __future__ import annotations

import json
import socket
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from xar_agent.errors import DataUnavailable
from xar_agent.jobs.stream import MAX_ANSWER_TOKENS, MAX_CONNECTIONS, TokenServer
from xar_agent.jobs.tokens import read_tokens

N_TOKENS = 20_000
TOKENS = array("H", range(N_TOKENS))
"""Each token is its own position, so a row shows where it came from."""
LANE = N_TOKENS // 512


class Client:
    """Speaks the stream's protocol and nothing more."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.reader = self.socket.makefile("rb")

    def send(self, line: bytes) -> None:
        self.socket.sendall(line)

    def header(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.reader.readline())
        return answer

    def take(self, rows: int, length: int) -> tuple[dict[str, Any], list[list[int]]]:
        self.send(json.dumps({"rows": rows, "length": length}).encode() + b"\n")
        header = self.header()
        tokens = array("H")
        tokens.frombytes(self.reader.read(header["rows"] * (length + 1) * 2))
        width = length + 1
        return header, [tokens[i : i + width].tolist() for i in range(0, len(tokens), width)]

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


@contextmanager
def served(
    budget: int = 1000, seed: int = 0, folder: Path | None = None, clock: Literal["tokens", "seconds"] = "tokens"
) -> Iterator[tuple[TokenServer, Client]]:
    with TokenServer(TOKENS, budget=budget, seed=seed, folder=folder, clock=clock) as server:
        client = Client(server.path)
        try:
            yield server, client
        finally:
            client.close()


def ends(step: Callable[[], object]) -> bool:
    """Whether doing it again and again is refused at some time."""
    try:
        for _ in range(20_000):
            step()
    except (OSError, ValueError):
        return True
    return False


def all_rows(budget: int, seed: int, rows: int, length: int) -> list[list[int]]:
    with served(budget, seed) as (_, client):
        found: list[list[int]] = []
        while (answer := client.take(rows, length))[0]["rows"]:
            found += answer[1]
        return found


def test_a_request_is_answered_as_the_contract_says() -> None:
    with served(1000) as (server, client):
        header, rows = client.take(4, 10)
        assert header == {"rows": 4, "length": 10, "itemsize": 2, "left": 960}
        assert [len(row) for row in rows] == [11] * 4
        assert all((b - a) % N_TOKENS == 1 for row in rows for a, b in zip(row, row[1:], strict=False))
        assert server.served == 40


def test_a_row_continues_where_the_last_row_of_its_lane_ended() -> None:
    rows = all_rows(512 * 2 * 10, 3, 512, 10)
    starts = {row[0] for row in rows}
    assert sum(row[-1] in starts for row in rows) == 512


def test_nearly_all_of_the_text_can_be_taken() -> None:
    assert sum(len(row) - 1 for row in all_rows(N_TOKENS, 1, 32, 1)) >= 0.95 * N_TOKENS


def test_the_same_seed_gives_the_same_rows_and_another_seed_gives_others() -> None:
    assert all_rows(2000, 7, 8, 16) == all_rows(2000, 7, 8, 16)
    assert all_rows(2000, 7, 8, 16) != all_rows(2000, 8, 8, 16)


def test_the_budget_ends_with_whole_rows_and_then_with_none() -> None:
    with served(95) as (server, client):
        assert client.take(8, 10)[0]["rows"] == 8
        header, rows = client.take(8, 10)
        assert (header["rows"], header["left"], len(rows)) == (1, 5, 1)
        assert client.take(1, 10)[0]["rows"] == 0
        assert client.take(1, 5)[0]["left"] == 0
        assert client.take(1, 1)[0]["rows"] == 0
        assert server.served == 95


def test_several_connections_share_one_budget() -> None:
    with served(100) as (server, first):
        second = Client(server.path)
        assert first.take(6, 10)[0]["left"] == 40
        assert second.take(6, 10)[0] == {"rows": 4, "length": 10, "itemsize": 2, "left": 0}
        second.close()


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1, 2]",
        b"{}",
        b'{"rows": -1, "length": 4}',
        b'{"rows": 0, "length": 4}',
        b'{"rows": 1.5, "length": 4}',
        b'{"rows": true, "length": 4}',
        b'{"rows": "1", "length": 4}',
        b'{"rows": 1, "length": 99999}',
        b'{"rows": 1, "length": -4}',
        b'{"rows": NaN, "length": 4}',
        b"\xff\xfe",
        b"[" * 900,
        b"x" * 5000,
        b"",
    ],
)
def test_a_bad_request_costs_nothing_and_leaves_the_connection_usable(line: bytes) -> None:
    with served(1000) as (server, client):
        client.send(line + b"\n")
        assert set(client.header()) == {"error"}
        assert server.served == 0
        assert client.take(1, 4)[0]["rows"] == 1


def test_a_huge_number_of_rows_gets_the_budget_and_no_more() -> None:
    with served(100) as (_, client):
        header, rows = client.take(10**15, 10)
        assert header["rows"] == len(rows) == 10


def test_a_flood_of_bytes_without_a_line_end_is_cut_off_and_others_go_on() -> None:
    with served(1000) as (server, client):
        flooder = Client(server.path)
        assert ends(lambda: flooder.send(b"x" * 4096))
        flooder.close()
        assert server.served == 0


def test_a_client_that_never_reads_holds_nobody_up() -> None:
    with served(10_000) as (server, client):
        silent = Client(server.path)
        silent.socket.setblocking(False)
        line = b'{"rows": 100, "length": 30}\n'
        for _ in range(200_000):
            try:
                silent.socket.send(line)
            except BlockingIOError:
                break
        begun = time.monotonic()
        assert client.take(1, 4)[0]["rows"] <= 1
        assert time.monotonic() - begun < 2
        silent.close()


def test_half_open_and_too_many_connections_hold_nobody_up() -> None:
    with served(1000) as (server, client):
        assert client.take(1, 4)[0]["rows"] == 1
        idle = [Client(server.path) for _ in range(MAX_CONNECTIONS - 1)]
        refused = Client(server.path)
        assert refused.reader.read() == b""
        idle[0].send(b'{"rows"')
        assert client.take(1, 4)[0]["rows"] == 1
        for one in (*idle, refused):
            one.close()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # places are free again once the server has seen the ends
            late = Client(server.path)
            late.send(b'{"rows": 1, "length": 4}\n')
            answer = late.reader.readline()
            late.close()
            if answer:
                return
        pytest.fail("the server did not take a new connection")


def test_a_client_that_errs_without_end_loses_the_stream() -> None:
    with served(1000) as (server, client):

        def err() -> None:
            client.send(b"{}\n")
            client.header()

        assert ends(err)
        assert server.served == 0


def test_two_requests_in_one_packet_get_two_answers() -> None:
    with served(1000) as (_, client):
        client.send(b'{"rows": 1, "length": 4}\n{"rows": 2, "length": 4}\n')
        assert client.header()["left"] == 996
        client.reader.read(10)
        assert client.header()["left"] == 988


def test_the_socket_is_in_the_folder_when_its_path_is_short_enough_and_gone_afterwards(tmp_path: Path) -> None:
    short = Path("/tmp") / f"xs{time.time_ns() % 10**8}"
    short.mkdir()
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    for folder in (short, deep):
        with served(10, 0, folder) as (server, client):
            path = server.path
            assert len(str(path)) <= 107
            assert client.take(1, 1)[0]["rows"] == 1
        assert not path.exists()
        assert not list(folder.iterdir())
    assert not path.parent.exists()
    short.rmdir()


def test_closing_ends_a_client_that_waits() -> None:
    server = TokenServer(TOKENS, budget=10, seed=0)
    client = Client(server.path)
    server.close()
    server.close()
    assert client.reader.read() == b""
    client.close()


def test_a_clock_of_seconds_starts_with_the_first_answer_and_ends_with_no_rows() -> None:
    with served(1, clock="seconds") as (server, client):
        client.send(b"{}\n")
        client.header()
        time.sleep(0.3)
        assert (server.used_s, server.over_s) == (None, 0.0), "a refused request starts nothing"
        header, rows = client.take(4, 10)
        assert (header["rows"], len(rows)) == (4, 4)
        assert 0.9 < header["left"] <= 1.0
        time.sleep(0.2)
        later = client.take(4, 10)[0]
        assert later["rows"] == 4
        assert 0.3 < later["left"] <= 0.8
        assert server.over_s == 0.0
        time.sleep(1.0)
        assert client.take(4, 10)[0] == {"rows": 0, "length": 10, "itemsize": 2, "left": 0.0}
        assert server.used_s is not None
        assert server.used_s >= 1.2
        assert server.over_s == pytest.approx(server.used_s - 1, abs=0.1)
        assert server.served == 80


def test_a_clock_of_tokens_knows_its_seconds_too_and_is_never_over() -> None:
    with served(40) as (server, client):
        before = server.used_s
        client.take(4, 10)
        time.sleep(0.05)
        assert before is None
        assert 0.05 <= (server.used_s or 0.0) < 5
        assert server.over_s == 0.0


def test_seconds_are_not_used_up_by_text_that_is() -> None:
    with served(60, clock="seconds") as (server, client):
        passes = 5
        firsts = [client.take(512, LANE - 1)[1][0][0] for _ in range(passes)]
        assert server.served == passes * 512 * (LANE - 1)
        assert len(set(firsts)) > 1, "each pass has an order of its own"


def test_one_answer_is_bounded_whatever_the_seconds_allow() -> None:
    with served(60, clock="seconds") as (server, client):
        client.send(b'{"rows": 1000000000000, "length": 10}\n')
        assert str(MAX_ANSWER_TOKENS) in client.header()["error"]
        assert server.served == 0
        assert client.take(1, 4)[0]["rows"] == 1


def test_text_that_can_no_longer_be_read_is_an_error_of_the_data_and_not_of_the_client(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(TOKENS.tobytes())
    server = TokenServer(read_tokens(path), budget=1000, seed=0)
    client = Client(server.path)
    path.write_bytes(b"")
    client.send(b'{"rows": 1, "length": 4}\n')
    assert client.reader.read() == b""
    client.close()
    with pytest.raises(DataUnavailable, match="cut short"):
        server.__exit__()
