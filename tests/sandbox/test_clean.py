"""What dead drivers have left is found by proof and removed; what a living one uses is not touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from scan import alive, gone_within, holds_within, sleepers, slept_within

from xar_agent.agent.local_server import CHILD
from xar_agent.sandbox import SandboxSpec, cgroup, engine, held, open_sandbox, orphans
from xar_agent.sandbox.clean import FINDERS, Cleaning, clean, stray_containers, stray_folders, stray_leases
from xar_agent.sandbox.held import HeldFolder

IN_A_SANDBOX = """
import sys, threading
from pathlib import Path
from xar_agent.sandbox import SandboxSpec, open_sandbox
folder, command = Path(sys.argv[1]), sys.argv[2]
with open_sandbox("process", SandboxSpec(workspace=folder)) as box:
    box.spawn(["sh", "-c", command], stderr_path=folder.parent / "errors")
    threading.Event().wait()
"""
MODEL_SERVER = """
import subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-P", sys.argv[1], "serve"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
threading.Event().wait()
"""
IN_A_GROUP = """
import subprocess, sys
from xar_agent.sandbox import cgroup
from xar_agent.sandbox.protocol import Limits
made = cgroup.make(Limits())
script = 'for procs; do echo 0 > "$procs"; done; exec sleep ' + sys.argv[1]
subprocess.Popen(["sh", "-c", script, "sh", *made["join"]], stdout=subprocess.DEVNULL)
print(*made["remove"], flush=True)
"""
LEASE = """
import sys, threading
from pathlib import Path
from xar_agent.sandbox.leases import LeaseFolder
with LeaseFolder(Path(sys.argv[1])).hold(["GPU-1"], 1):
    print("held", flush=True)
    threading.Event().wait()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of this test's own, for us and for the processes that it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def started() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    with ExitStack() as stack:
        yield stack


def driver(started: ExitStack, program: str, *words: str) -> subprocess.Popen[str]:
    """A process of its own that runs a program of the package."""
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True)
    started.enter_context(process)
    started.callback(process.kill)
    return process


def old(folder: Path) -> Path:
    """The folder, older than any that is just being made."""
    os.utime(folder, (0, 0))
    return folder


def cleaned() -> list[Cleaning]:
    """What became of everything that was found."""
    return list(clean(FINDERS))


def supervisors_of(pid: int) -> list[int]:
    """Supervisors below a driver."""
    return [one.pid for one in orphans.processes().values() if one.parent == pid and one.is_supervisor]


def test_a_stopped_supervisor_of_a_dead_driver_is_ended_with_its_command_and_a_living_ones_is_not(
    temporary: Path, tmp_path: Path, marker: str, started: ExitStack
) -> None:
    spared = f"8{marker[1:]}"
    drivers = []
    for name, seconds in (("dead", marker), ("living", spared)):
        (tmp_path / name).mkdir()
        drivers.append(driver(started, IN_A_SANDBOX, str(tmp_path / name), f"setsid sleep {seconds} & sleep {seconds}"))
    assert slept_within(marker, 2, 20)
    assert slept_within(spared, 2, 20)
    (stopped,) = supervisors_of(drivers[0].pid)
    os.kill(stopped, signal.SIGSTOP)
    drivers[0].kill()
    drivers[0].wait()
    time.sleep(0.3)
    assert len(sleepers(marker)) == 2, "a stopped supervisor ends nothing"
    assert stopped in {orphan.pid for orphan in orphans.orphans()}
    cleaned()
    assert gone_within(marker, 5)
    assert stopped not in orphans.processes()
    assert len(sleepers(spared)) == 2
    assert len(supervisors_of(drivers[1].pid)) == 1
    cleaned()
    assert len(sleepers(spared)) == 2


def test_what_outlived_driver_and_supervisor_is_ended(
    temporary: Path, tmp_path: Path, marker: str, started: ExitStack
) -> None:
    (tmp_path / "workspace").mkdir()
    dead = driver(started, IN_A_SANDBOX, str(tmp_path / "workspace"), f"setsid sleep {marker} & sleep 600")
    assert slept_within(marker, 1, 20)
    (supervisor,) = supervisors_of(dead.pid)
    for pid in (supervisor, dead.pid):
        os.kill(pid, signal.SIGKILL)
    dead.wait()
    for folder in temporary.glob("xar-sandbox-*"):
        old(folder)
    assert sleepers(marker), "nobody is left who could end it"
    cleaned()
    assert gone_within(marker, 5)
    assert list(temporary.iterdir()) == []


def test_a_stopped_model_server_of_a_dead_driver_is_ended_and_a_living_ones_is_not(started: ExitStack) -> None:
    servers = []
    for _ in range(2):
        process = driver(started, MODEL_SERVER, str(CHILD))
        assert process.stdout is not None
        servers.append((process, int(process.stdout.readline())))
    (dead, orphan), (_, kept) = servers
    assert holds_within(lambda: orphans.pipe_of(orphan, "0") != "" and orphans.processes()[orphan].is_model_server, 5)
    os.kill(orphan, signal.SIGSTOP)
    dead.kill()
    dead.wait()
    cleaned()
    assert orphan not in orphans.processes()
    assert kept in orphans.processes()


def test_a_process_that_only_looks_like_ours_is_left_alone(tmp_path: Path, started: ExitStack) -> None:
    lookalike = tmp_path / "local_child.py"
    lookalike.write_text("import time; time.sleep(600)")
    command = [sys.executable, "-P", str(lookalike), "serve"]
    process = started.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
    started.callback(process.kill)
    cleaned()
    assert process.poll() is None


def test_a_group_of_a_dead_driver_goes_with_what_runs_in_it_and_a_living_ones_stays(
    marker: str, started: ExitStack
) -> None:
    if not cgroup.version():
        pytest.skip("this user may not make control groups")
    dead = driver(started, IN_A_GROUP, marker)
    groups = [Path(line) for line in dead.communicate()[0].split()]
    own = cgroup.make(SandboxSpec(Path()).limits)
    started.callback(cgroup.remove, own)
    assert groups
    assert all(group.is_dir() for group in groups)
    assert slept_within(marker, 1, 5)
    assert cgroup.sweep() >= 0
    assert groups[0].is_dir(), "an ordinary start removes empty groups only"
    cleaned()
    assert gone_within(marker, 5)
    assert not any(group.exists() for group in groups)
    assert all(Path(group).is_dir() for group in own["remove"])


def test_folders_go_by_their_lock_and_their_age(temporary: Path) -> None:
    for name in ("xar-sandbox-dead", "xar-io-young", "xar-io-bare", "xar-index-empty", "xar-other-lab", "foreign"):
        (temporary / name / "below").mkdir(parents=True)
    for name in ("xar-sandbox-dead", "xar-io-young", "xar-other-lab"):
        (temporary / name / "lock").touch()
    (temporary / "xar-index-empty" / "below").rmdir()
    (temporary / "xar-io-link").symlink_to(temporary / "foreign")
    for path in temporary.iterdir():
        if path.name != "xar-io-young" and not path.is_symlink():
            old(path)
    with HeldFolder("calibrate") as mine:
        old(mine)
        found = {Path(one.leftover.name).name: one for one in clean((stray_folders,))}
        assert mine.is_dir()
    removed = {name for name, one in found.items() if one.outcome == "removed"}
    assert removed == {"xar-sandbox-dead", "xar-index-empty"}
    assert "younger than a minute" in found["xar-io-young"].reason
    assert "no lock" in found["xar-io-bare"].reason
    left = {path.name for path in temporary.iterdir()}
    assert left == {"xar-io-young", "xar-io-bare", "xar-other-lab", "foreign", "xar-io-link"}


def test_a_held_folder_is_gone_when_closed_and_stays_when_its_maker_is_killed(
    temporary: Path, started: ExitStack
) -> None:
    with HeldFolder("probe") as folder:
        assert held.why_kept(old(folder)) == held.IN_USE
    assert not folder.exists()
    program = (
        "import os, signal; from xar_agent.sandbox.held import HeldFolder as H; h = H('io'); os.kill(os.getpid(), 9)"
    )
    driver(started, program).wait()
    (left,) = temporary.iterdir()
    assert held.why_kept(left) != held.IN_USE
    assert held.why_kept(old(left)) == ""


def test_the_note_of_a_dead_process_about_its_gpu_goes_and_a_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: ExitStack
) -> None:
    places = [tmp_path / "dead", tmp_path / "living"]
    holders = [driver(started, LEASE, str(place)) for place in places]
    for holder in holders:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
    holders[0].kill()
    holders[0].wait()
    outcomes = []
    for place in places:
        monkeypatch.setenv("XAR_GPU_LEASES", str(place))
        outcomes.append([one.outcome for one in clean((stray_leases,))])
    assert outcomes == [["removed"], []]
    assert not list(places[0].glob("held-*"))
    assert len(list(places[1].glob("held-*"))) == 1


@pytest.mark.docker
def test_a_container_of_a_dead_driver_goes_and_a_living_ones_stays(docker_image: str, started: ExitStack) -> None:
    program = "import json; from xar_agent.sandbox import engine; print(json.dumps(dict(engine.labels('planted'))))"
    said = driver(started, program).communicate()[0]
    client = started.enter_context(closing(engine.connect()))
    made = []
    for labels in (json.loads(said), dict(engine.labels("mine"))):
        made.append(client.create_container(docker_image, ["sleep", "60"], labels=labels)["Id"])
        started.callback(remove_quietly, client, made[-1])
    list(clean((stray_containers,)))
    known = {one["Id"] for one in client.containers(all=True, filters={"label": engine.LABEL})}
    assert made[0] not in known
    assert made[1] in known
    assert not any(made[1][:12] in one.leftover.name for one in clean((stray_containers,)))


def remove_quietly(client: object, container: str) -> None:
    """It may be gone."""
    from docker.errors import NotFound

    with suppress(NotFound):
        client.remove_container(container, force=True, v=True)  # type: ignore[attr-defined]


def test_a_start_sweeps_and_a_look_does_not(temporary: Path, workspace: Path) -> None:
    (temporary / "xar-io-dead" / "below").mkdir(parents=True)
    (temporary / "xar-io-dead" / "lock").touch()
    planted = old(temporary / "xar-io-dead")
    assert [leftover.name for leftover in stray_folders()] == [str(planted)]
    assert planted.is_dir()
    with open_sandbox("process", SandboxSpec(workspace=workspace)):
        assert not planted.exists()
    assert alive("xar-io-dead") == []
