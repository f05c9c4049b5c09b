"""What is Docker's alone: images, containers and their owners, a container begun again, the choice of ``auto``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import BACKENDS
from scan import OpenBox, alive, holds_within, slept_within

from xar_agent.errors import CapabilityMissing, SandboxLost
from xar_agent.sandbox import Limits, Sandbox, SandboxSpec, engine, open_sandbox, probe
from xar_agent.sandbox.docker import docker_info
from xar_agent.sandbox.images import CPU_IMAGE

pytestmark = pytest.mark.docker
only_docker = pytest.mark.parametrize("backend", BACKENDS[2:], indirect=True)


@pytest.fixture
def client() -> Iterator[Any]:
    """The engine, asked directly."""
    with contextlib.closing(engine.connect()) as connected:
        yield connected


def named(client: Any, name: str) -> list[str]:
    """Ids of all containers of sandboxes of that name."""
    return [c["Id"] for c in client.containers(all=True, filters={"label": f"xar-agent.name={name}"})]


def test_an_image_that_is_not_there_is_named_with_what_to_do(workspace: Path) -> None:
    with pytest.raises(CapabilityMissing, match="no image xar-agent:none") as refused:
        open_sandbox("docker", SandboxSpec(workspace=workspace, image="xar-agent:none"))
    assert "docker pull xar-agent:none" in refused.value.hint


@pytest.mark.parametrize(
    ("host", "said"),
    [("unix:///nowhere/docker.sock", "no socket at unix:///nowhere"), ("tcp://127.0.0.1:9", "nobody listens at tcp:")],
)
def test_an_engine_that_is_not_there_is_said_in_one_line(host: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(CapabilityMissing, match=said) as refused:
        engine.connect()
    assert "--sandbox bubblewrap" in refused.value.hint


def test_a_container_is_made_as_the_design_says(client: Any, docker_image: str, workspace: Path, marker: str) -> None:
    limits = Limits(memory_mib=256, processes=40, cpus=1.5)
    with open_sandbox("docker", SandboxSpec(workspace, image=docker_image, limits=limits, name=marker)):
        (made,) = named(client, marker)
        known = client.inspect_container(made)
    host = known["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["CapAdd"]) == ("none", ["ALL"], None)
    assert (host["SecurityOpt"], host["ReadonlyRootfs"], host["Init"]) == (["no-new-privileges:true"], True, True)
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (256 << 20, 256 << 20, 48)
    assert (host["NanoCpus"], host["Privileged"], host["LogConfig"]["Type"]) == (1_500_000_000, False, "none")
    assert not any("docker.sock" in mount["Source"] for mount in known["Mounts"])
    assert known["Config"]["User"] == "0:0"
    assert named(client, marker) == []


def test_no_key_of_ours_is_in_the_containers_description(
    client: Any, docker_image: str, workspace: Path, planted_key: str, marker: str
) -> None:
    with open_sandbox("docker", SandboxSpec(workspace, image=docker_image, name=marker)):
        (made,) = named(client, marker)
        assert planted_key not in str(client.inspect_container(made))


@only_docker
def test_commands_run_as_another_user_than_the_keeper(box: Sandbox) -> None:
    seen = box.exec(["sh", "-c", "id -u; for p in /proc/[0-9]*; do grep -h ^Uid: $p/status; done"]).output.split("\n")
    assert seen[0] == str(1000 if os.geteuid() == 0 else os.geteuid())
    assert {line.split()[1] for line in seen[1:] if line} == {"0", seen[0]}


BOMB = "f() { sleep {m} & f & f & }; f; wait"


@only_docker
def test_a_full_container_is_begun_again_and_keeps_its_files(open_box: OpenBox, marker: str) -> None:
    box = open_box(limits=Limits(processes=24))
    box.exec(["sh", "-c", "echo kept > f; echo kept > /tmp/g"])
    box.exec(["sh", "-c", BOMB.replace("{m}", marker)], timeout_s=1)
    assert alive(marker) == []
    assert box.exec(["sh", "-c", "cat f /tmp/g"]).output == "kept\nkept\n"


KEEP = {
    "a file in shared memory": "head -c 1000000 /dev/zero > /dev/shm/f",
    "a System V segment": "{python} -c 'import ctypes; assert ctypes.CDLL(None).shmget(1, 1 << 20, 0o1666) >= 0'",
}


@only_docker
@pytest.mark.parametrize("how", KEEP)
def test_memory_that_no_process_holds_does_not_stay(box: Sandbox, how: str) -> None:
    assert box.exec(["sh", "-c", KEEP[how].format(python=box.info.python)]).exit_code == 0
    assert box.exec(["sh", "-c", "ls /dev/shm; tail -n +2 /proc/sysvipc/shm"]).output == ""


DRIVER = """
import sys
from pathlib import Path
from xar_agent.sandbox import SandboxSpec, open_sandbox
with open_sandbox("docker", SandboxSpec(Path(sys.argv[1]), name=sys.argv[2])) as box:
    box.exec(["sleep", sys.argv[2]], timeout_s=600)
"""


@only_docker
def test_the_container_of_a_killed_driver_ends_and_the_next_start_removes_it(
    backend: str, client: Any, workspace: Path, tmp_path: Path, marker: str
) -> None:
    (tmp_path / "other").mkdir()
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(workspace), marker]) as driver:
        assert slept_within(marker, 1, 20)
        (made,) = named(client, marker)
        with open_sandbox(backend, SandboxSpec(workspace=tmp_path / "other")):
            assert named(client, marker) == [made]
        driver.kill()
    assert holds_within(lambda: not client.inspect_container(made)["State"]["Running"], 5)
    with open_sandbox(backend, SandboxSpec(workspace=tmp_path / "other")):
        assert named(client, marker) == []


@only_docker
def test_a_container_that_someone_else_ends_is_a_lost_sandbox(
    open_box: OpenBox, client: Any, marker: str, tmp_path: Path
) -> None:
    box = open_box(name=marker)
    process = box.spawn(["sleep", marker], stderr_path=tmp_path / "e")
    assert slept_within(marker, 1, 20)
    client.kill(named(client, marker)[0])
    with pytest.raises(SandboxLost, match="ended by someone else"):
        process.wait(20)
    assert box.exec(["echo", "again"]).output == "again\n"


def test_a_container_of_an_unknown_owner_goes_when_its_time_is_over(
    client: Any, docker_image: str, marker: str
) -> None:
    elsewhere = {**engine.labels(marker), engine.OWNER: engine.labels(marker)[engine.OWNER].replace("/", "/9", 1)}
    made = {}
    for name, expires in {"old": "1", "young": engine.labels("x")[engine.EXPIRES]}.items():
        labels = {**elsewhere, engine.EXPIRES: expires}
        made[name] = client.create_container(docker_image, "true", labels=labels)["Id"]
    try:
        assert engine.sweep(client) >= 1
        assert named(client, marker) == [made["young"]]
    finally:
        with contextlib.suppress(Exception):
            client.remove_container(made["young"])


def test_auto_takes_docker_where_the_image_is_there(docker_image: str) -> None:
    chosen = probe("auto", image=docker_image)
    assert (chosen.backend, chosen.image, chosen.python) == ("docker", docker_image, "python3")
    assert chosen.runtime.startswith("Python 3.")


@pytest.mark.bwrap
def test_auto_says_why_it_did_not_take_docker() -> None:
    chosen = probe("auto", image="xar-agent:none")
    assert chosen.backend == "bubblewrap"
    assert "not Docker: the Docker engine has no image xar-agent:none" in chosen.detail


@pytest.mark.torch
def test_torch_works_in_the_image_for_training(docker_cpu_image: str, workspace: Path) -> None:
    assert "torch 2." in docker_info(docker_cpu_image).runtime
    with open_sandbox("docker", SandboxSpec(workspace=workspace, image=CPU_IMAGE)) as box:
        code = "import torch; print(torch.ones(2, 2).sum().item())"
        assert box.exec(["python3", "-c", code], env={"OMP_NUM_THREADS": "1"}, timeout_s=120).output == "4.0\n"
