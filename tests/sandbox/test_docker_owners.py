"""Whose container it is: one that lives where we cannot see it is not removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from xar_agent.sandbox import engine

ORPHANS = """
import os, sys
from xar_agent.sandbox import engine
if sys.argv[1]:
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
owners = sys.argv[3:]
print(*[owner for owner in owners if engine._is_orphan({engine.OWNER: owner, engine.EXPIRES: sys.argv[2]})])
"""


def orphans(owners: list[str], *before: str, user: str = "", expires: float | None = None) -> set[str]:
    """Which of these owners another process takes for dead."""
    words = [*before, sys.executable, "-c", ORPHANS, user, str(int(expires or time.time() + 1000)), *owners]
    return set(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split())


@pytest.fixture
def owner() -> Iterator[str]:
    """A living one that is not ours."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield engine._owner(process.pid)
        process.kill()


def test_a_living_owner_is_none(owner: str) -> None:
    dead = owner[: owner.rindex("/")] + "/1"
    assert orphans([owner, dead]) == {dead}


def test_an_owner_of_another_machine_is_left_alone_until_its_time(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "00000000" + owner[8:]
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert orphans([elsewhere]) == {elsewhere}
    for host in ("tcp://10.0.0.1:2376", "ssh://machine"):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert orphans([elsewhere]) == set()
        assert orphans([elsewhere], expires=1.0) == {elsewhere}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount /proc so that users see their own processes alone")
def test_an_owner_that_is_hidden_from_us_is_left_alone(owner: str) -> None:
    hide = ["unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("/proc cannot be mounted here")
    dead = "/".join([*owner.split("/")[:2], "4000000", "1"])
    assert orphans([owner, dead], *hide, user="65533") == {dead}
