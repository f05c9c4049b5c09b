"""The embedded model's server: a child process of ours and nobody else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xar_agent.agent.local_server import CHILD, LocalServer, default_threads
from xar_agent.agent.messages import ContextOverflow
from xar_agent.errors import ModelUnavailable

STUB = Path(__file__).with_name("stub_model_program.py")
QUESTION = [{"role": "user", "content": "What is two plus two? One digit."}]
pytest.importorskip("xllamacpp", reason="the embedded model's server is not installed (pip install 'xar-agent[local]')")


def stub(tmp_path: Path, text: str = "answer") -> LocalServer:
    path = tmp_path / "stub.gguf"
    path.write_text(text)
    return LocalServer(path, program=STUB, slots=3, context_tokens=512, threads=2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    with stub(tmp_path) as running:
        yield running


def echo(server: LocalServer, **more: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(server.complete(QUESTION, slot=1, max_tokens=9, **more).text)
    return value


def gone(pid: int, within_s: float = 5.0) -> bool:
    """The process ends in that time; a zombie counts as gone."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_call_is_greedy_names_its_slot_and_carries_schema_and_stops(server: LocalServer) -> None:
    schema = {"type": "object"}
    asked = echo(server, schema=schema, stop=["\n```"])["asked"]
    assert asked["messages"] == QUESTION
    assert (asked["temperature"], asked["id_slot"], asked["max_tokens"]) == (0.0, 1, 9)
    assert asked["stop"] == ["\n```"]
    assert asked["response_format"] == {"type": "json_schema", "json_schema": {"schema": schema}}
    assert "response_format" not in echo(server)["asked"]


def test_an_answer_has_its_bill(server: LocalServer) -> None:
    done = server.complete(QUESTION, slot=0, max_tokens=9)
    assert (done.input_tokens, done.output_tokens, done.cached_tokens, done.finish_reason) == (7, 3, 5, "stop")
    assert done.latency_s > 0


def test_the_child_gets_no_secret_and_no_setting_of_ours(server: LocalServer, planted_key: str) -> None:
    seen = echo(server)
    assert planted_key not in json.dumps(seen["environment"])
    assert set(seen["environment"]) <= {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
    }
    assert seen["settings"]["threads"] == 2
    assert (seen["settings"]["slots"], seen["settings"]["context_tokens"]) == (3, 512)


def test_the_key_is_new_at_each_start_and_not_on_the_command_line(server: LocalServer) -> None:
    first = echo(server)["settings"]["key"]
    command = Path(f"/proc/{server.pid}/cmdline").read_text()
    assert len(first) > 20
    assert first not in command
    server.close()
    assert echo(server)["settings"]["key"] != first


def test_closing_ends_the_process_and_the_next_call_starts_another(server: LocalServer) -> None:
    server.start()
    first = server.pid
    assert first is not None
    server.close()
    assert server.pid is None
    assert gone(first)
    echo(server)
    assert server.pid not in {None, first}
    server.close()
    server.close()


def test_a_server_that_dies_once_is_started_again(tmp_path: Path) -> None:
    with stub(tmp_path) as server:
        server.start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert echo(server)["asked"]["messages"] == QUESTION


def test_a_server_that_dies_in_each_call_is_unavailable(tmp_path: Path) -> None:
    with stub(tmp_path, "crash 1") as server, pytest.raises(ModelUnavailable, match="stopped answering"):
        server.complete(QUESTION, slot=0, max_tokens=9)


def test_a_server_that_cannot_load_says_why(tmp_path: Path) -> None:
    with stub(tmp_path, "refuse") as server:
        with pytest.raises(ModelUnavailable, match=r"stub.gguf did not start") as caught:
            server.start()
        assert "the model file makes no sense" in caught.value.hint
        assert server.pid is None


def test_a_prompt_that_is_too_long_is_told_apart(server: LocalServer) -> None:
    with pytest.raises(ContextOverflow):
        server.complete([{"role": "user", "content": "x" * 2000}], slot=0, max_tokens=9)


def test_the_log_goes_to_the_file_that_was_named(tmp_path: Path) -> None:
    path = tmp_path / "stub.gguf"
    path.write_text("refuse")
    with LocalServer(path, program=STUB, log_path=tmp_path / "server.log") as server, pytest.raises(ModelUnavailable):
        server.start()
    assert "makes no sense" in (tmp_path / "server.log").read_text()


def test_a_file_that_is_no_model_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with LocalServer(path) as server, pytest.raises(ModelUnavailable, match=r"noise.gguf did not start"):
        server.start()


def test_a_child_in_the_midst_of_work_dies_with_its_parent(tmp_path: Path) -> None:
    """The child spins without ever giving the interpreter lock away, as loading a model does."""
    busy = tmp_path / "busy.py"
    busy.write_text(
        "import re, runpy, sys\n"
        f"child = runpy.run_path({str(CHILD)!r})\n"
        "child['die_with_parent']()\n"
        "print('busy', flush=True)\n"
        "re.match('(a*)*b', 'a' * 60)\n"  # one call into C that would take years
    )
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {str(busy)!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(parent)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(0.2)
        process.kill()
    assert gone(pid)


def test_one_core_is_left_for_the_rest() -> None:
    assert default_threads() == max(1, len(os.sched_getaffinity(0)) - 1)


@pytest.mark.model
def test_the_real_model_answers_the_same_each_time_obeys_a_schema_and_needs_the_key(model_file: Path) -> None:
    schema = {"type": "object", "properties": {"part": {"enum": ["a.py:A", "b.py:B"]}}, "required": ["part"]}
    with LocalServer(model_file, context_tokens=512, slots=1) as server:
        first = server.complete(QUESTION, slot=0, max_tokens=8)
        assert server.complete(QUESTION, slot=0, max_tokens=8).text == first.text
        chosen = server.complete([{"role": "user", "content": "Choose B."}], slot=0, max_tokens=32, schema=schema)
        assert json.loads(chosen.text)["part"] in {"a.py:A", "b.py:B"}
        with pytest.raises(ContextOverflow):
            server.complete([{"role": "user", "content": "word " * 600}], slot=0, max_tokens=8)
        request = urllib.request.Request(f"{server.start()}/v1/models")
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(request)
        refused.value.close()
