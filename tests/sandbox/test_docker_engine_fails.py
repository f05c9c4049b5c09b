"""An engine that is slow, refuses, hangs or goes away in the middle: said in time, and nothing is left running."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scan import alive, gone_within, holds_within, slept_within

from xar_agent.errors import SandboxError, SandboxLost
from xar_agent.sandbox import Sandbox, SandboxSpec, engine, open_sandbox

pytestmark = pytest.mark.docker
REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
REFUSAL += b'Content-Length: 20\r\nConnection: close\r\n\r\n{"message":"broken"}'


class Proxy:
    """A socket before the engine's own: requests that match ``broken`` are refused, or never answered."""

    def __init__(self, path: Path, behind: str) -> None:
        self.broken: re.Pattern[bytes] | None = None
        self.delay_s = 0.0
        self.silent = False
        self.holds = False
        """Whether the engine's side stays open when ours has ended."""
        self.seen = 0
        self._behind = behind
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._behind)
                self._open += [here, there]
                for pair in ((here, there, True), (there, here, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, judged: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if judged and self.broken is not None and self.broken.match(data):
                    self.seen += 1
                    if self.silent:
                        continue
                    if not self.delay_s:
                        source.sendall(REFUSAL)
                        source.shutdown(socket.SHUT_RDWR)
                        break
                    time.sleep(self.delay_s)
                sink.sendall(data)
        if judged and self.holds:
            return
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR if source.fileno() < 0 else socket.SHUT_WR)

    def cut(self) -> None:
        """Every connection ends, as when an engine goes."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for one in (self._listener, *self._open):
            one.close()


@pytest.fixture
def behind() -> str:
    """Path of the engine's socket."""
    return (os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock").removeprefix("unix://")


@pytest.fixture
def proxy(tmp_path: Path, behind: str, docker_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """DOCKER_HOST leads through it."""
    path = Path(f"/tmp/xar-test-{secrets.token_hex(4)}.sock")
    with contextlib.closing(Proxy(path, behind)) as made:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        monkeypatch.setenv("XAR_IMAGE", docker_image)
        try:
            yield made
        finally:
            path.unlink()


@pytest.fixture
def box(proxy: Proxy, workspace: Path, marker: str) -> Iterator[Sandbox]:
    """A sandbox that reaches its engine through the proxy."""
    with open_sandbox("docker", SandboxSpec(workspace, name=marker)) as opened:
        yield opened


def named(name: str) -> list[str]:
    """Ids of all containers of sandboxes of that name."""
    with contextlib.closing(engine.connect()) as client:
        found = client.containers(all=True, filters={"label": f"xar-agent.name={name}"})
        return [container["Id"] for container in found]


CALLS = {
    "create": rb"POST [^ ]*/exec HTTP|POST [^ ]*/exec ",
    "start": rb"POST [^ ]*/exec/\w+/start",
    "inspect": rb"GET [^ ]*/exec/",
}


@pytest.mark.parametrize("call", CALLS)
def test_an_engine_that_refuses_a_command_is_a_lost_sandbox(box: Sandbox, proxy: Proxy, marker: str, call: str) -> None:
    proxy.broken = re.compile(CALLS[call])
    with pytest.raises(SandboxLost, match="broken"):
        box.exec(["sleep", marker], timeout_s=30)
    assert proxy.seen
    proxy.broken = None
    assert alive(marker) == []
    assert box.exec(["echo", "again"]).output == "again\n"


def test_an_engine_that_goes_away_is_a_lost_sandbox_and_nothing_runs_on(
    box: Sandbox, proxy: Proxy, marker: str, tmp_path: Path
) -> None:
    process = box.spawn(["sleep", marker], stderr_path=tmp_path / "e")
    assert slept_within(marker, 1, 20)
    proxy.cut()
    begun = time.monotonic()
    with pytest.raises(SandboxError):
        process.wait(30)
    assert time.monotonic() - begun < 10
    assert alive(marker) == []
    assert box.exec(["echo", "again"]).output == "again\n"


def test_an_engine_that_is_slow_to_start_a_command_does_not_keep_another_from_its_end(
    box: Sandbox, proxy: Proxy, marker: str, tmp_path: Path
) -> None:
    process = box.spawn(["sleep", marker], timeout_s=2, stderr_path=tmp_path / "e")
    assert slept_within(marker, 1, 20)
    proxy.broken, proxy.delay_s = re.compile(CALLS["create"]), 5.0

    def start_another() -> None:
        with contextlib.suppress(SandboxLost):  # it may be ended with the container
            box.exec(["echo", "late"])

    other = threading.Thread(target=start_another)
    other.start()
    result = process.wait(60)
    assert (result.stopped_by, result.duration_s < 3.5) == ("wall", True)
    assert alive(marker) == []
    other.join(20)
    assert not other.is_alive()
    proxy.broken = None
    assert box.exec(["echo", "again"]).output == "again\n"


def test_a_container_that_cannot_be_listed_or_removed_keeps_no_other_from_starting(
    proxy: Proxy, workspace: Path, marker: str
) -> None:
    with open_sandbox("docker", SandboxSpec(workspace, name="first")):
        pass
    proxy.broken = re.compile(rb"GET [^ ]*/containers/json")
    with open_sandbox("docker", SandboxSpec(workspace, name=marker)) as box:
        assert box.exec(["echo", "works"]).output == "works\n"
    assert proxy.seen


def test_a_container_that_is_ended_while_idle_is_begun_again(box: Sandbox, marker: str) -> None:
    with contextlib.closing(engine.connect()) as client:
        client.kill(named(marker)[0])
    assert box.exec(["echo", "again"]).output == "again\n"


def test_a_removed_container_is_a_lost_sandbox(box: Sandbox, marker: str) -> None:
    with contextlib.closing(engine.connect()) as client:
        client.remove_container(named(marker)[0], force=True)
    with pytest.raises(SandboxError):
        box.exec(["true"])


def test_a_paused_container_is_a_lost_sandbox_and_nothing_runs_on(box: Sandbox, marker: str, tmp_path: Path) -> None:
    process = box.spawn(["sleep", marker], timeout_s=2, stderr_path=tmp_path / "e")
    assert slept_within(marker, 1, 20)
    with contextlib.closing(engine.connect()) as client:
        client.pause(named(marker)[0])
    begun = time.monotonic()
    with contextlib.suppress(SandboxLost):
        process.wait(60)
    assert time.monotonic() - begun < 30
    assert alive(marker) == []


DRIVER = """
import sys
from pathlib import Path
from xar_agent.sandbox import SandboxSpec, open_sandbox
from xar_agent.sandbox.docker import DockerSandbox
print("ready", flush=True)
with DockerSandbox(SandboxSpec(Path(sys.argv[1]), name=sys.argv[2])) as box:
    print("started", flush=True)
    while True:
        box.exec(["true"])
"""


def test_an_engine_that_does_not_notice_our_death_does_not_keep_the_container_alive(
    proxy: Proxy, workspace: Path, marker: str
) -> None:
    proxy.holds = True
    words = [sys.executable, "-c", DRIVER.replace('["true"]', '["sleep", sys.argv[2]]'), str(workspace), marker]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as driver:
        assert slept_within(marker, 1, 30)
        driver.kill()
    assert gone_within(marker, 5)


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5])
def test_ctrl_c_at_any_moment_leaves_no_container(
    after_s: float, workspace: Path, docker_image: str, marker: str
) -> None:
    env = {**os.environ, "XAR_IMAGE": docker_image}
    words = [sys.executable, "-c", DRIVER, str(workspace), marker]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        time.sleep(after_s)
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate(timeout=60)
        assert b"KeyboardInterrupt" in said
    assert holds_within(lambda: named(marker) == [], 1)
