"""Token shards come from a hub over a bad network, each byte once, and nothing damaged is kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xar_agent.envs.spec import list_envs
from xar_agent.jobs.tokens import read_split

ENV = list_envs()["nanogpt"]
TRAIN = 600_000
HELD_OUT = 2050


def shard(seed: int, n: int) -> bytes:
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, n
    return header.tobytes() + np.random.default_rng(seed).integers(0, 50257, n, dtype=np.uint16).tobytes()


class Hub:
    """A server with one data set, ``someone/corpus``; what it does wrong can be set."""

    def __init__(self) -> None:
        self.files = {f"fineweb_train_{i:06d}.bin": shard(i, TRAIN) for i in range(1, 4)}
        self.files["fineweb_val_000000.bin"] = shard(0, 3 * HELD_OUT)
        self.listed: dict[str, dict[str, Any]] = {}
        self.cut_after = 0
        """Bytes of an answer after which the connection ends; 0: never."""
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def listing(self) -> bytes:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "docs", "size": 0}]
        for name, content in self.files.items():
            digest = hashlib.sha256(content).hexdigest()
            entry = {"type": "file", "path": name, "size": len(content), "lfs": {"oid": digest}}
            entries.append(entry | self.listed.get(name, {}))
        return json.dumps(entries).encode()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if request.path == "/api/datasets/someone/corpus/tree/main?recursive=true":
            content = self.listing()
        elif (name := request.path.removeprefix("/datasets/someone/corpus/resolve/main/")) in self.files:
            content = self.files[name]
        else:
            request.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(content) - first))
        request.end_headers()
        is_shard = "resolve" in request.path
        body = content[first : first + self.cut_after if is_shard and self.cut_after else None]
        request.wfile.write(body)
        self.sent += len(body) if is_shard else 0


@pytest.fixture
def hub() -> Iterator[Hub]:
    opened = Hub()
    yield opened
    opened.close()


def run(program: str, *arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-B", "-P", str(ENV / program), *arguments]
    environment = {**os.environ, "HF_ENDPOINT": url, "no_proxy": "*"}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)


def fetch(hub: Hub, folder: Path, name: str = "someone/corpus#2") -> subprocess.CompletedProcess[str]:
    return run("fetch_tokens.py", str(folder), name, "--pause", "0", url=hub.url)


def assert_whole(hub: Hub, folder: Path, n_train: int = 2) -> None:
    """The held-out shard and the first training shards are there, and nothing else."""
    names = {"fineweb_val_000000.bin", *(f"fineweb_train_{i:06d}.bin" for i in range(1, n_train + 1))}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: hub.files[name] for name in names}


def test_the_held_out_shard_and_the_first_training_shards_come_with_progress(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path / "shards")
    assert done.returncode == 0, done.stderr
    assert_whole(hub, tmp_path / "shards")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["done"] for line in lines] == sorted(line["done"] for line in lines)
    assert (
        lines[-1]["done"] == lines[-1]["total"] == sum(p.stat().st_size for p in (tmp_path / "shards").iterdir()) >> 20
    )


def test_a_connection_cut_again_and_again_costs_no_byte_twice(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 300_000
    done = fetch(hub, tmp_path / "shards")
    assert done.returncode == 0, done.stderr
    assert_whole(hub, tmp_path / "shards")
    assert hub.sent == sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    assert ("/datasets/someone/corpus/resolve/main/fineweb_train_000001.bin", "bytes=300000-") in hub.asked


def test_a_later_try_goes_on_where_an_earlier_one_ended(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    name = "fineweb_train_000001.bin"
    (tmp_path / "shards" / f"{name}.part").write_bytes(hub.files[name][:700_000])
    assert fetch(hub, tmp_path / "shards", "someone/corpus#1").returncode == 0
    assert_whole(hub, tmp_path / "shards", 1)
    assert hub.sent == len(hub.files[name]) - 700_000 + len(hub.files["fineweb_val_000000.bin"])
    hub.sent = 0
    assert fetch(hub, tmp_path / "shards", "someone/corpus#1").returncode == 0
    assert hub.sent == 0


def test_a_server_that_cannot_go_on_in_the_middle_is_read_from_the_beginning(hub: Hub, tmp_path: Path) -> None:
    hub.ranges = False
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "fineweb_train_000001.bin.part").write_bytes(b"x" * 500)
    done = fetch(hub, tmp_path / "shards")
    assert done.returncode == 0, done.stderr
    assert_whole(hub, tmp_path / "shards")


def test_what_came_is_kept_when_the_hub_gives_no_more(hub: Hub, tmp_path: Path) -> None:
    hub.listed["fineweb_train_000001.bin"] = {"size": 10**7}
    done = fetch(hub, tmp_path / "shards")
    assert done.returncode == 1
    assert "fineweb_train_000001.bin: " in done.stderr
    assert "goes on from there" in done.stderr
    part = tmp_path / "shards" / "fineweb_train_000001.bin.part"
    assert part.read_bytes() == hub.files["fineweb_train_000001.bin"]


def test_a_damaged_shard_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    hub.listed["fineweb_train_000001.bin"] = {"lfs": {"oid": "0" * 64}}
    done = fetch(hub, tmp_path / "shards")
    assert done.returncode == 1
    assert "fineweb_train_000001.bin came damaged" in done.stderr
    assert not list((tmp_path / "shards").glob("fineweb_train*"))


def test_a_disk_too_small_is_said_before_the_download(hub: Hub, tmp_path: Path) -> None:
    hub.listed["fineweb_train_000002.bin"] = {"size": 10**17}
    done = fetch(hub, tmp_path / "shards")
    assert done.returncode == 1
    assert "is too full: 100,000,000.0 GB to come" in done.stderr
    assert hub.sent == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("someone/nothing", "404"),
        ("../../etc", "is not the name of a data set"),
        ("someone/corpus#0", "is not the name of a data set"),
    ],
)
def test_a_wrong_name_is_said(hub: Hub, tmp_path: Path, name: str, reason: str) -> None:
    done = fetch(hub, tmp_path / "shards", name)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_network_the_way_round_it_is_named(tmp_path: Path) -> None:
    done = run("fetch_tokens.py", str(tmp_path / "shards"), "someone/corpus", url="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "no answer from http://127.0.0.1:9" in done.stderr
    assert "--data PATH" in done.stderr


def test_a_hub_data_set_becomes_splits_and_its_download_is_gone(hub: Hub, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "set"), "--source", "hub:someone/corpus#2", "--held-out", str(HELD_OUT)]
    done = run("prepare_tokens.py", *arguments, url=hub.url)
    assert done.returncode == 0, done.stderr
    assert len(read_split(tmp_path / "set" / "train", "train")) == 2 * TRAIN
    assert json.loads((tmp_path / "set" / "recipe.json").read_text())["corpus"] == "someone/corpus"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert {path.stat().st_nlink for path in (tmp_path / "set").rglob("*.bin")} == {1}


def test_a_failed_download_is_the_reason_that_the_preparation_gives(tmp_path: Path) -> None:
    done = run("prepare_tokens.py", str(tmp_path / "set"), url="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("fetch_tokens: no answer")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "set").exists()
