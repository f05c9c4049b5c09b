"""The attacks are no empty threats: in a sandbox that is opened for them each gets through and is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from assault import ATTACKS
from scan import OpenBox, holds_within
from victim import Host, traces

from xar_agent.sandbox import Bind, Sandbox

pytestmark = pytest.mark.bwrap


@pytest.fixture
def backend() -> str:
    """One that can be opened."""
    return "bubblewrap"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """The machine outside."""
    with Host(tmp_path / "host", tmp_path / "host-home", "a secret") as machine:
        yield machine


def said(box: Sandbox, name: str, marker: str, host: Host) -> str:
    """What the attack of this name prints."""
    attack = next(one for one in ATTACKS if one.name == name)
    return box.exec(attack.argv(box.info.python, marker, host.address_book()), timeout_s=30).output


def test_with_a_network_the_listeners_are_reached(open_box: OpenBox, host: Host, marker: str) -> None:
    shown = said(open_box(network=True), "listeners of the host", marker, host)
    assert "BREACH tcp" in shown
    assert "BREACH abstract" in shown
    assert any("a connection to" in harm for harm in host.harm())


def test_with_the_hosts_folder_bound_its_file_is_read_and_written(open_box: OpenBox, host: Host, marker: str) -> None:
    binds = (Bind(host.folder, str(host.folder), writable=True), Bind(host.home, str(host.home)))
    box = open_box(binds=(*binds, Bind(host.folder, "/opened", writable=True)))
    assert "BREACH a file of the host 'a secret'" in said(box, "the user's home, keys and sockets", marker, host)
    assert "BREACH home" in said(box, "the user's home, keys and sockets", marker, host)
    assert "BREACH a new file" in said(box, "writing outside of the workspace", marker, host)
    assert "BREACH a writable folder" in said(box, "every folder that can be written", marker, host)
    assert "the canary file" in host.harm()


def test_a_process_that_stays_is_seen_by_its_words_and_by_its_surroundings(
    open_box: OpenBox, marker: str, tmp_path: Path
) -> None:
    box = open_box()
    for argv, env in ((["sleep", marker], {}), (["sleep", "60"], {"MARK": marker})):
        process = box.spawn(argv, env=env, stderr_path=tmp_path / "e")
        assert holds_within(lambda: bool(traces(marker, None)), 5)
        process.kill()
        assert traces(marker, None) == []


def test_every_attack_has_a_name_of_its_own_and_runs_as_python() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 50
    for attack in ATTACKS:
        compile(attack.argv("python", "7", {})[2], attack.name, "exec")


def test_a_canary_that_is_stopped_or_dead_is_seen(host: Host) -> None:
    assert host.harm() == []
    host._canary.kill()
    host._canary.wait()
    assert host.harm() == ["the canary process"]
