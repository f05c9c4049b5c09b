"""What bounds memory and processes without an engine: control groups of both kinds, or limits and a watchdog."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scan import OpenBox, holds_within

from xar_agent.sandbox import Limits, cgroup, probe
from xar_agent.sandbox.bubblewrap import find_bwrap
from xar_agent.sandbox.reaper.measure import Meter

LIMITS = Limits(memory_mib=96, processes=24)
NO_GROUPS = Path("/nowhere")


@pytest.fixture
def unified() -> Iterator[Path]:
    """A real hierarchy of version 2, mounted where nothing else is."""
    with tempfile.TemporaryDirectory() as name:
        mounted = subprocess.run(["mount", "-t", "cgroup2", "none", name], capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no control groups of version 2 can be mounted here: {mounted.stderr.strip()}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


@pytest.fixture
def folder_like_v2(tmp_path: Path) -> Path:
    """A plain folder with the names of a hierarchy of version 2: shows what we write, and bounds nothing."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        pytest.skip("this kernel has no control groups of version 2")
    folder = tmp_path / "groups" / own.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").touch()
    return tmp_path / "groups"


@pytest.mark.parametrize("backend", [pytest.param("bubblewrap", marks=pytest.mark.bwrap), "process"], indirect=True)
def test_each_command_has_a_group_with_its_limits_that_is_gone_afterwards(open_box: OpenBox, tmp_path: Path) -> None:
    if cgroup.version() == 0:
        pytest.skip("no control group can be made here")
    box = open_box(limits=LIMITS)
    process = box.spawn(["sleep", "20"], stderr_path=tmp_path / "e")
    found = own_groups()
    limits = {path.name: path.read_text().strip() for group in found for path in group.iterdir() if path.name in BOUNDS}
    assert limits.get("memory.limit_in_bytes", limits.get("memory.max")) == str(96 << 20)
    assert limits["pids.max"] == "32"  # and room for the sandbox's own
    assert holds_within(lambda: any((group / "cgroup.procs").read_text() for group in found), 5)
    process.kill()
    assert own_groups() == []


BOUNDS = ("memory.limit_in_bytes", "memory.max", "pids.max")


def own_groups() -> list[Path]:
    """Groups of this process's commands."""
    prefix = f"xar-{os.getpid()}-"
    walked = os.walk(cgroup.MOUNT)
    return [Path(folder, name) for folder, names, _ in walked for name in names if name.startswith(prefix)]


def test_the_info_says_which_bound_holds(backend: str) -> None:
    claims = probe(backend).capabilities
    groups = cgroup.version() != 0
    assert claims.mem_limit == ("cgroup" if groups or backend == "docker" else "watchdog")
    assert claims.process_limit == ("cgroup" if groups or backend == "docker" else "rlimit")


def test_a_real_group_of_version_2_is_joined_swept_and_removed(unified: Path) -> None:
    name = f"xar-{os.getpid()}-v2"
    made: list[Path] = []
    group = cgroup._make_v2(name, Limits(memory_mib=None, processes=None), made, unified)
    assert cgroup.can_join(group)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        Path(group["join"][0]).write_text(str(sleeper.pid))
        assert str(sleeper.pid) in Path(group["join"][0]).read_text()
        assert Meter({"cgroup": group}).cgroup_cpu_s() >= 0.0
        cgroup.remove(group)
        assert sleeper.wait(5) == -9
    assert not made[0].exists()


def test_a_hierarchy_without_the_memory_controller_is_not_taken_for_a_bound(unified: Path) -> None:
    if "memory" in (unified / "cgroup.controllers").read_text().split():
        assert cgroup.version(unified) == 2
    else:
        assert cgroup.version(unified) == 0
        assert cgroup.make(LIMITS, unified) == {}
    assert [path for path in unified.iterdir() if path.name.startswith(f"xar-{os.getpid()}-")] == []


def test_what_is_written_to_version_2_in_a_folder_that_stands_for_it(folder_like_v2: Path) -> None:
    made: list[Path] = []
    group = cgroup._make_v2("xar-1-1", LIMITS, made, folder_like_v2)
    written = {path.name: path.read_text() for path in made[0].iterdir()}
    assert written == {"memory.max": str(96 << 20), "memory.swap.max": "0", "pids.max": "32"}
    assert group["join"] == [str(made[0] / "cgroup.procs")]
    (made[0] / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n")
    (made[0] / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    meter = Meter({"cgroup": group})
    assert (meter.oom_kills(), meter.cgroup_cpu_s()) == (1, 1.5)


def test_without_a_hierarchy_there_is_no_group() -> None:
    assert cgroup.version(NO_GROUPS) == 0
    assert cgroup.make(LIMITS, NO_GROUPS) == {}


WATCHED = """
import sys, time
from pathlib import Path
from xar_agent.sandbox import Limits, SandboxSpec, open_sandbox, probe

claims = probe(sys.argv[1]).capabilities
assert (claims.mem_limit, claims.process_limit) == ("watchdog", "rlimit"), claims
assert "sampled" in probe(sys.argv[1]).detail
limits = Limits(memory_mib=128, processes=24)
with open_sandbox(sys.argv[1], SandboxSpec(workspace=Path(sys.argv[2]), limits=limits)) as box:
    def run(code, **more):
        return box.exec([sys.executable, "-c", "import os, time\\n" + code], **more)
    hog = run("os.fork(); held = bytearray(b'x') * (100 << 20); time.sleep(20)", timeout_s=15)
    assert (hog.oom, hog.stopped_by) == (True, "memory"), hog
    shared = "held = bytearray(b'x') * (64 << 20)\\nfor _ in range(6):\\n if os.fork() == 0: break\\ntime.sleep(1.5)"
    result = run(shared, timeout_s=15)
    assert (result.oom, result.exit_code) == (False, 0), result
    bomb = "try:\\n for n in range(99):\\n  os.fork() or time.sleep(5)\\nexcept OSError: print(n)"
    if sys.argv[1] == "bubblewrap":  # a plain process of root is not bounded by an rlimit
        assert 12 < int(run(bomb, timeout_s=10).output) < 32
    assert run("print(6 * 7)").output == "42\\n"
print("all right")
"""


@pytest.mark.bwrap
@pytest.mark.parametrize("backend", ["bubblewrap", "process"])
def test_without_control_groups_limits_and_a_watchdog_hold(backend: str, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    hidden = [find_bwrap()[0], "--dev-bind", "/", "/", "--tmpfs", "/sys/fs/cgroup", "--die-with-parent"]
    hidden += ["--cap-add", "ALL"] if os.geteuid() == 0 else []
    if os.geteuid() != 0 and cgroup.version() == 0:
        hidden = []  # it is so here anyhow
    words = [*hidden, sys.executable, "-c", WATCHED, backend, str(tmp_path / "w")]
    begun = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=90)
    assert (done.stdout, done.stderr) == ("all right\n", "")
    assert time.monotonic() - begun < 60
