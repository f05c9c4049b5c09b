"""Token files of every layout become a data set whose splits share no token; what is wrong with a file is said."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xar_agent.envs.spec import list_envs
from xar_agent.jobs.tokens import read_split

PROGRAM = list_envs()["nanogpt"] / "prepare_tokens.py"
HELD_OUT = 2050
TRAIN = 1_100_000
"""A little more than the program asks for."""

Ids = NDArray[np.uint16]


def some_ids(n: int, seed: int) -> Ids:
    return np.random.default_rng(seed).integers(0, 50257, n, dtype=np.uint16)


def with_header(ids: Ids, *, magic: int = 20240520, version: int = 1, n: int | None = None) -> bytes:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(ids) if n is None else n
    return header.tobytes() + ids.tobytes()


def write_npy(path: Path, ids: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, ids)


def prepare(folder: Path, source: Path, held_out: int = HELD_OUT) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-B", "-P", str(PROGRAM), str(folder), "--source", str(source), "--held-out", str(held_out)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def prepared(folder: Path, source: Path, held_out: int = HELD_OUT) -> dict[str, Any]:
    """Its recipe."""
    done = prepare(folder, source, held_out)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"stage": "ready", "done": 1, "total": 1}
    return json.loads((folder / "recipe.json").read_text())  # type: ignore[no-any-return]


def refused(tmp_path: Path, source: Path) -> str:
    """The one line that says why."""
    done = prepare(tmp_path / "set", source)
    assert done.returncode == 1
    assert not (tmp_path / "set").exists()
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def split(folder: Path, name: str) -> Ids:
    text = read_split(folder / name, name)
    return np.frombuffer(text.read(0, len(text)), dtype="<u2")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Training files in three layouts and one for validation, as they lie on a disk."""
    folder = tmp_path / "my corpus"
    folder.mkdir()
    (folder / "train_000001.bin").write_bytes(with_header(some_ids(TRAIN, 1)))
    (folder / "train_000002.bin").write_bytes(some_ids(TRAIN + 1, 2).tobytes())
    write_npy(folder / "train_000003.npy", some_ids(TRAIN + 2, 3))
    (folder / "val_000000.bin").write_bytes(with_header(some_ids(10_000, 0)))
    return folder


def test_every_layout_gives_its_tokens_back_and_validation_is_the_beginning_of_its_own_file(
    corpus: Path, tmp_path: Path
) -> None:
    recipe = prepared(tmp_path / "set", corpus)
    whole = [some_ids(TRAIN + i - 1, i) for i in (1, 2, 3)]
    assert np.array_equal(split(tmp_path / "set", "train"), np.concatenate(whole))
    assert np.array_equal(split(tmp_path / "set", "val"), some_ids(10_000, 0)[:HELD_OUT])
    assert np.array_equal(split(tmp_path / "set", "hidden"), some_ids(10_000, 0)[HELD_OUT : 2 * HELD_OUT])
    assert np.array_equal(split(tmp_path / "set", "smoke"), whole[0][: 64 * 1025])
    assert recipe["corpus"] == "my corpus"
    for name in ("val", "hidden", "smoke"):
        assert [path.name for path in (tmp_path / "set" / name).glob("*.bin")] == [f"{name}.bin"]
        meta = json.loads((tmp_path / "set" / name / "meta.json").read_text())
        assert (meta["vocab"], meta["dtype"], meta["bytes"]) == (50257, "uint16", None)


def test_whole_training_files_are_linked_and_the_users_files_are_left_as_they_were(
    corpus: Path, tmp_path: Path
) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mode) for path in corpus.iterdir()}
    prepared(tmp_path / "set", corpus)
    assert before == {path.name: (path.read_bytes(), path.stat().st_mode) for path in corpus.iterdir()}
    for path in corpus.glob("train*"):
        assert (tmp_path / "set" / "train" / path.name).samefile(path)


def test_the_manifest_has_the_digest_of_every_other_file(corpus: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "set", corpus)
    digests = json.loads((tmp_path / "set" / "MANIFEST.json").read_text())
    files = {p.relative_to(tmp_path / "set").as_posix(): p for p in (tmp_path / "set").rglob("*") if p.is_file()}
    assert digests == {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items() if n != "MANIFEST.json"}


def test_one_file_is_cut_into_three_and_training_has_no_byte_of_the_others(tmp_path: Path) -> None:
    ids = some_ids(TRAIN + 2 * HELD_OUT, 7)
    (tmp_path / "tokens.bin").write_bytes(with_header(ids))
    recipe = prepared(tmp_path / "set", tmp_path / "tokens.bin")
    assert recipe["corpus"] == "tokens"
    assert np.array_equal(split(tmp_path / "set", "train"), ids[:TRAIN])
    assert np.array_equal(split(tmp_path / "set", "hidden"), ids[TRAIN : TRAIN + HELD_OUT])
    assert np.array_equal(split(tmp_path / "set", "val"), ids[TRAIN + HELD_OUT :])
    assert (tmp_path / "set" / "train" / "tokens.bin").read_bytes() == ids[:TRAIN].tobytes()


def test_a_validation_file_that_is_too_short_is_not_trained_on_either(tmp_path: Path) -> None:
    source = tmp_path / "owt"
    source.mkdir()
    ids = some_ids(TRAIN + 2 * HELD_OUT, 1)
    (source / "train.bin").write_bytes(ids.tobytes())
    (source / "val.bin").write_bytes(some_ids(HELD_OUT - 1, 2).tobytes())
    recipe = prepared(tmp_path / "set", source)
    assert recipe["val"]["file"] == recipe["hidden"]["file"] == "train.bin"
    assert np.array_equal(split(tmp_path / "set", "train"), ids[:TRAIN])


def test_a_file_named_test_is_the_hidden_split(corpus: Path, tmp_path: Path) -> None:
    (corpus / "test.bin").write_bytes(some_ids(HELD_OUT, 9).tobytes())
    prepared(tmp_path / "set", corpus)
    assert np.array_equal(split(tmp_path / "set", "hidden"), some_ids(HELD_OUT, 9))
    assert len(split(tmp_path / "set", "train")) == 3 * TRAIN + 3


def test_held_out_splits_have_rows_enough_for_ten_million_scored_tokens(tmp_path: Path) -> None:
    wanted = 10_240 * 1025
    (tmp_path / "big.bin").write_bytes(some_ids(2 * wanted + TRAIN, 1).tobytes())
    done = subprocess.run(
        [sys.executable, "-B", str(PROGRAM), str(tmp_path / "set"), "--source", str(tmp_path / "big.bin")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(split(tmp_path / "set", "val")) == len(split(tmp_path / "set", "hidden")) == wanted
    assert len(split(tmp_path / "set", "train")) == TRAIN


def test_a_name_given_in_meta_json_is_the_corpus(corpus: Path, tmp_path: Path) -> None:
    (corpus / "meta.json").write_text('{"corpus": "fineweb-edu 10B", "dtype": "uint16"}')
    assert prepared(tmp_path / "set", corpus)["corpus"] == "fineweb-edu 10B"
    (corpus / "meta.json").write_text('{"dtype": "uint32"}')
    assert "not uint16" in prepare(tmp_path / "other", corpus).stderr


def test_with_a_tokenizer_the_text_is_there_and_its_bytes_are_counted(corpus: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    vocab = {f"w{i}": i for i in range(50256)} | {"<|endoftext|>": 50256}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(corpus / "tokenizer.json"))
    prepared(tmp_path / "set", corpus)
    ids = split(tmp_path / "set", "val")
    expected = "".join(f"w{i}" for i in ids if i != 50256)
    assert (tmp_path / "set" / "val" / "text.txt").read_text() == expected
    assert json.loads((tmp_path / "set" / "val" / "meta.json").read_text())["bytes"] == len(expected)
    assert not (tmp_path / "set" / "smoke" / "text.txt").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train_9.bin", with_header(some_ids(99, 1), n=100), "cut short: its header says 100 tokens, it has 99"),
        ("train_9.bin", with_header(some_ids(99, 1), magic=20240801), "unknown header: magic 20240801"),
        ("train_9.bin", with_header(some_ids(99, 1), version=2), "unknown header: magic 20240520, version 2"),
        ("train_9.bin", some_ids(2000, 1).tobytes()[:-1], "odd number of bytes"),
        ("train_9.bin", np.array([5, 50257], "<u2").tobytes(), "has the id 50257"),
        ("train_9.bin", with_header(some_ids(TRAIN + 1, 2)), "train_000002.bin and train_9.bin hold the same tokens"),
        ("val_9.bin", with_header(some_ids(TRAIN, 1)), "train_000001.bin and val_9.bin hold the same tokens"),
        ("train_9.npy", b"\x93NUMPY not", "not a whole .npy file"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named_with_what_is_wrong(
    corpus: Path, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (corpus / name).write_bytes(content)
    said = refused(tmp_path, corpus)
    assert reason in said
    assert name in said


@pytest.mark.parametrize("ids", [np.arange(100, dtype=np.uint32), np.zeros((10, 10), np.uint16)])
def test_an_array_of_another_type_or_shape_is_refused(corpus: Path, tmp_path: Path, ids: NDArray[Any]) -> None:
    write_npy(corpus / "train_9.npy", ids)
    assert "expected one dimension of uint16" in refused(tmp_path, corpus)


def test_too_few_tokens_are_counted_for_the_user(tmp_path: Path) -> None:
    (tmp_path / "small.bin").write_bytes(some_ids(200_000, 1).tobytes())
    said = refused(tmp_path, tmp_path / "small.bin")
    assert "too few tokens" in said
    assert "200,000 are there, in 1 files" in said


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no .bin or .npy files" in refused(tmp_path, tmp_path / "empty")


def test_a_complete_set_is_left_as_it_is_and_a_damaged_one_is_made_again(corpus: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "set", corpus)
    before = (tmp_path / "set").stat().st_ino
    prepared(tmp_path / "set", corpus)
    assert (tmp_path / "set").stat().st_ino == before
    (tmp_path / "set" / "val" / "val.bin").write_bytes(b"")
    prepared(tmp_path / "set", corpus)
    assert len(split(tmp_path / "set", "val")) == HELD_OUT
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
