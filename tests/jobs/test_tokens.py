"""Token ids are read from disk piece by piece, in an order that only the seed decides."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xar_agent.errors import DataUnavailable
from xar_agent.jobs.tokens import Shard, TokenArray, TokenLanes, TokenText, read_split, read_tokens

N_TOKENS = 20_000
POSITIONS = array("H", range(N_TOKENS))
"""Each token is its own position, so a row shows where it came from."""
LANE = N_TOKENS // 512

RECORDED = {
    (0, 32, 64): "7a040e8a075e2e6ac733da3ab8e6653b300ee0cc806f0eb1b22388f90e58435c",
    (1, 32, 64): "c6cdcec43b7070dc7fc10e009059c7ab120b990e166164b91384f2388aa8ae5c",
    (7, 8, 16): "8d46fc5b1ba41eb7527db05d959a3da5c5cc20d6e4e509d34ce570ffb009dede",
    (12345, 33, 100): "976c2df66d4b5ff4cfa83c91cd24250c87618291e808ceb0732eb20283bca138",
    (3, 1, 1): "62fa2cef92bd6af8d870d996110f74509170a3cf291aec1af51943c623522381",
}
"""Seed, rows and length of each request -> sha256 of all rows of 200,000 tokens. Shipped baselines stand on it."""


def ids(row: bytes) -> list[int]:
    return array("H", row).tolist()


def write_shards(folder: Path, tokens: array[int], cuts: list[int], offset: int) -> list[Shard]:
    """The tokens in several files, each behind a header of ``offset`` bytes."""
    shards = []
    edges = [0, *cuts, len(tokens)]
    for number, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        path = folder / f"{number}.bin"
        path.write_bytes(b"h" * offset + tokens[start:stop].tobytes() + b"t" * 6)
        shards.append(Shard(path, offset, stop - start))
    return shards


@pytest.mark.parametrize("request_", RECORDED)
def test_a_seed_gives_the_rows_that_it_always_gave(request_: tuple[int, int, int], tmp_path: Path) -> None:
    seed, rows, length = request_
    tokens = array("H", ((i * 40503 + (i >> 7) * 977) & 0xFFFF for i in range(200_000)))
    shards = write_shards(tmp_path, tokens, [1, 70_001, 70_003, 199_000], 1024)
    for text in (TokenArray(tokens), TokenText(shards)):
        lanes = TokenLanes(text, seed)
        state = hashlib.sha256()
        while taken := lanes.take(rows, length):
            state.update(b"".join(taken))
        assert state.hexdigest() == RECORDED[request_]


@settings(max_examples=20, deadline=None)
@given(requests=st.lists(st.tuples(st.integers(1, 80), st.integers(1, LANE - 1)), max_size=40), seed=st.integers())
def test_no_token_is_an_input_twice_whatever_is_asked(requests: list[tuple[int, int]], seed: int) -> None:
    lanes = TokenLanes(TokenArray(POSITIONS), seed)
    inputs: Counter[int] = Counter()
    for rows, length in requests:
        for row in lanes.take(rows, length):
            assert len(ids(row)) == length + 1
            inputs.update(ids(row)[:-1])
    assert not [token for token, n in inputs.items() if n > 1]


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, LANE - 1), min_size=1, max_size=4), seed=st.integers())
def test_an_endless_text_gives_no_token_once_more_than_it_was_begun(lengths: list[int], seed: int) -> None:
    lanes = TokenLanes(TokenArray(POSITIONS), seed, endless=True)
    inputs: Counter[int] = Counter()
    for number in range(1500):
        (row,) = lanes.take(1, lengths[number % len(lengths)])
        inputs.update(ids(row)[:-1])
    assert max(inputs.values()) <= lanes.passes


def test_a_second_pass_is_complete_and_in_another_order() -> None:
    lanes = TokenLanes(TokenArray(POSITIONS), 4, endless=True)
    per_pass = 512 * ((LANE - 1) // 19)
    first, second = (lanes.take(per_pass, 19) for _ in range(2))
    assert lanes.passes == 2
    assert len(set(first)) == len(set(second)) == per_pass
    assert first[:50] != second[:50]
    assert not TokenLanes(TokenArray(POSITIONS), 4).take(per_pass + 1, 19)[per_pass:]


def test_a_row_longer_than_a_lane_is_not_looked_for_without_end() -> None:
    assert TokenLanes(TokenArray(POSITIONS), 0, endless=True).take(1, LANE) == []
    assert TokenLanes(TokenArray(array("H")), 0, endless=True).take(1, 1) == []


def test_the_shards_that_meta_json_lists_are_one_text(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, POSITIONS, [7, 9000], 40)
    listed = [{"file": s.path.name, "offset": s.offset, "tokens": s.tokens} for s in shards]
    (tmp_path / "meta.json").write_text(json.dumps({"shards": listed}))
    text = read_split(tmp_path, "train")
    assert len(text) == N_TOKENS
    assert ids(text.read(0, N_TOKENS)) == POSITIONS.tolist()
    assert ids(text.read(5, 9002)) == list(range(5, 9002))
    assert text.read(12, 12) == b""


def test_without_a_list_of_shards_the_split_is_its_one_file(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(POSITIONS.tobytes())
    assert len(read_split(tmp_path, "train")) == N_TOKENS
    (tmp_path / "meta.json").write_text('{"tokens": 20000}')
    assert len(read_split(tmp_path, "train")) == N_TOKENS


@pytest.mark.parametrize(
    "listed",
    [
        [{"file": "0.bin", "offset": 0, "tokens": 10**9}],
        [{"file": "nowhere.bin", "offset": 0, "tokens": 1}],
        [{"file": "0.bin"}],
        "0.bin",
    ],
)
def test_a_wrong_list_of_shards_is_an_error_of_the_data(listed: object, tmp_path: Path) -> None:
    write_shards(tmp_path, POSITIONS, [], 0)
    (tmp_path / "meta.json").write_text(json.dumps({"shards": listed}))
    with pytest.raises(DataUnavailable):
        read_split(tmp_path, "train")


def test_a_missing_or_odd_token_file_is_an_error_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable):
        read_tokens(tmp_path / "train.bin")
    (tmp_path / "train.bin").write_bytes(b"\x01\x02\x03")
    with pytest.raises(DataUnavailable, match="odd"):
        read_tokens(tmp_path / "train.bin")


def test_a_file_cut_short_after_it_was_opened_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(POSITIONS.tobytes())
    text = read_tokens(tmp_path / "train.bin")
    with (tmp_path / "train.bin").open("r+b") as file:
        file.truncate(100)
    assert ids(text.read(0, 50)) == list(range(50))
    with pytest.raises(DataUnavailable, match="cut short"):
        text.read(0, 51)
