"""Deadlines, limits and clean-up, whatever a command does."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from backends import BACKENDS
from scan import OpenBox, alive, gone_within, sleepers, slept_within

from xar_agent.errors import SandboxLost
from xar_agent.sandbox import ExecResult, Limits, Sandbox, cgroup
from xar_agent.sandbox.reaper.disk import Disk

STUBBORN = {
    "a plain sleeper": "sleep {m}",
    "setsid": "setsid sleep {m} & sleep {m}",
    "a double fork": "(setsid sh -c 'sleep {m} & sleep {m}' & ) ; sleep {m}",
    "a grandchild holds the pipe": "sh -c 'sleep {m} &' ; sleep {m}",
    "SIGTERM and others ignored": "trap '' TERM INT HUP QUIT; sleep {m} & sleep {m} & wait; sleep {m}",
    "stopped": "sleep {m} & kill -STOP $! ; kill -STOP $$",
    "endless output": "sleep {m} & yes",
    "closed streams": "exec >&- 2>&- <&-; sleep {m}",
}


@pytest.mark.parametrize("how", STUBBORN)
def test_a_command_ends_at_its_deadline_with_all_that_it_started(box: Sandbox, marker: str, how: str) -> None:
    begun = time.monotonic()
    result = box.exec(["sh", "-c", STUBBORN[how].format(m=marker)], timeout_s=0.5)
    assert time.monotonic() - begun < 0.5 + 1 + 1  # the second 1: starting up on a busy machine
    assert result.duration_s < 1.5
    assert (result.exit_code, result.timed_out, result.stopped_by) == (137, True, "wall")
    assert result.survivors_killed >= 1
    assert alive(marker) == []


def test_stopping_the_supervisor_does_not_stop_the_deadline(box: Sandbox, marker: str) -> None:
    result = box.exec(["sh", "-c", f"kill -STOP $PPID; sleep {marker}"], timeout_s=0.5)
    assert result.stopped_by == "wall"
    assert result.duration_s < 1.5
    assert alive(marker) == []


@pytest.mark.parametrize("how", ["sleep {m} & sleep {m} &", "setsid sleep {m} & (setsid sleep {m} &) ;"])
def test_what_a_command_leaves_behind_is_killed_and_counted(box: Sandbox, marker: str, how: str) -> None:
    result = box.exec(["sh", "-c", how.format(m=marker) + " sleep 0.2; echo done"])
    assert (result.exit_code, result.output, result.timed_out) == (0, "done\n", False)
    assert result.survivors_killed == 2
    assert alive(marker) == []


ZOMBIE_LEADER = """
import ctypes, os, sys, threading, time
child = os.fork()
if child == 0:
    os.setsid()
    def beat():
        while True:
            open("beat", "a").write("x")
            time.sleep(0.02)
    threading.Thread(target=beat).start()
    for fd in range(3):
        os.close(fd)
    ctypes.CDLL(None).syscall(60, 0)
while open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.02)
os._exit(0)
"""


def test_a_process_whose_first_thread_has_ended_is_ended_too(box: Sandbox, workspace: Path) -> None:
    result = box.exec([box.info.python, "-c", ZOMBIE_LEADER], timeout_s=30)
    assert (result.exit_code, result.survivors_killed) == (0, 1)
    size = (workspace / "beat").stat().st_size
    time.sleep(0.3)
    assert (workspace / "beat").stat().st_size == size > 0


def test_three_hundred_megabytes_do_not_fill_our_memory(box: Sandbox, tmp_path: Path) -> None:
    result = box.exec(["head", "-c", "300000000", "/dev/zero"], timeout_s=60, log_path=tmp_path / "log")
    assert (result.exit_code, result.n_bytes) == (0, 300_000_000)
    assert len(result.head) + len(result.tail) == 65_536
    assert (tmp_path / "log").stat().st_size == 64 << 20


def test_cpu_time_of_the_whole_tree_is_capped(box: Sandbox) -> None:
    burn = "while :; do :; done & while :; do :; done & wait"
    result = box.exec(["sh", "-c", burn], timeout_s=30, cpu_s=0.5)
    assert (result.stopped_by, result.timed_out) == ("cpu", True)
    assert 0.5 <= result.cpu_s < 1.5


def test_cpu_time_of_children_that_have_ended_counts(box: Sandbox) -> None:
    burn = (
        "import os, time\nfor _ in range(4):\n pid = os.fork()\n if not pid:\n  while time.process_time() < 0.1: pass\n"
    )
    burn += "  os._exit(0)\n os.waitpid(pid, 0)"
    assert 0.4 <= box.exec([box.info.python, "-c", burn]).cpu_s < 1.0


def test_the_cpu_time_of_a_spawned_command_can_be_followed(box: Sandbox, tmp_path: Path) -> None:
    process = box.spawn(["sh", "-c", "while :; do :; done"], stderr_path=tmp_path / "e")
    stop = time.monotonic() + 20
    while process.cpu_s() < 0.2 and time.monotonic() < stop:
        time.sleep(0.05)
    assert process.cpu_s() >= 0.2
    result = process.wait(0.0)
    assert (result.stopped_by, process.cpu_s()) == ("wall", result.cpu_s)


def hungry(python: str, mib: int) -> list[str]:
    """A command that takes so much memory in two processes, and holds it."""
    code = f"import os, time; os.fork(); b = bytearray(b'x') * ({mib} << 19); time.sleep(20)"
    return [python, "-c", code]


def test_memory_of_the_whole_tree_is_capped(open_box: OpenBox) -> None:
    box = open_box(limits=Limits(memory_mib=128))
    result = box.exec(hungry(box.info.python, 256), timeout_s=15)
    assert (result.stopped_by, result.oom) == ("memory", True)
    assert result.exit_code != 0


def test_a_control_group_that_cannot_be_joined_is_not_used(tmp_path: Path) -> None:
    assert cgroup.can_join({"join": [str(tmp_path / "cgroup.procs")]})
    assert not cgroup.can_join({"join": [str(tmp_path / "cgroup.procs"), str(tmp_path / "missing" / "cgroup.procs")]})


def test_memory_within_the_limit_is_left_alone(open_box: OpenBox) -> None:
    box = open_box(limits=Limits(memory_mib=256))
    result = box.exec([box.info.python, "-c", "b = bytearray(b'x') * (64 << 20)"])
    assert (result.exit_code, result.oom) == (0, False)


def test_disk_use_is_capped(open_box: OpenBox) -> None:
    box = open_box(limits=Limits(disk_mib=16, file_mib=None))
    for place in (".", "$TMPDIR"):
        fill = f"mkdir -p {place}/d; while :; do head -c 1000000 /dev/zero > {place}/d/$((n=n+1)); sleep 0.01; done"
        result = box.exec(["sh", "-c", fill], timeout_s=30)
        assert result.stopped_by == "disk"
        box.exec(["sh", "-c", f"rm -r {place}/d"])


NAMELESS = """
import os, time
with open("x", "wb", buffering=0) as file:
    os.unlink("x")
    for _ in range(200):
        file.write(bytes(1 << 20))
        time.sleep(0.02)
"""
EMPTY = """
for n in range(10**6):
    open(str(n), "wb").close()
"""


@pytest.mark.parametrize("code", [NAMELESS, EMPTY], ids=["a file without a name", "empty files"])
def test_disk_use_that_no_listing_shows_is_capped(open_box: OpenBox, code: str) -> None:
    box = open_box(limits=Limits(disk_mib=4, file_mib=None))
    result = box.exec([box.info.python, "-c", code], timeout_s=30)
    assert result.stopped_by == "disk"


def test_a_disk_that_loses_far_more_than_the_limit_ends_the_command(tmp_path: Path) -> None:
    disk = Disk([str(tmp_path)])
    assert not disk.is_over(16 << 20, 0)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "f").write_bytes(bytes(1) * (64 << 20))
    os.sync()
    assert disk.is_over(16 << 20, 0)


def test_a_single_file_is_capped(open_box: OpenBox) -> None:
    result = open_box(limits=Limits(file_mib=1)).exec(["sh", "-c", "head -c 3000000 /dev/zero > big; stat -c %s big"])
    assert result.output.endswith("1048576\n")


def test_open_files_are_capped_and_cores_are_off(open_box: OpenBox) -> None:
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE)[1], r.getrlimit(r.RLIMIT_CORE)[1])"
    box = open_box(limits=Limits(open_files=64))
    assert box.exec([box.info.python, "-c", code]).output == "64 0\n"


BOMB = """
import os, time
n = 0
try:
    while n < 400:
        if os.fork() == 0:
            time.sleep({m})
        n += 1
except OSError:
    pass
print(n)
"""


def test_a_fork_bomb_is_bounded_and_cleaned_up(open_box: OpenBox, marker: str) -> None:
    box = open_box(limits=Limits(processes=64))
    result = box.exec([box.info.python, "-c", BOMB.format(m=marker)], timeout_s=20)
    assert result.exit_code == 0
    assert 40 <= int(result.output) <= 80
    assert alive(marker) == []


def test_a_bomb_of_stopped_and_forking_children_ends_at_the_deadline(open_box: OpenBox, marker: str) -> None:
    box = open_box(limits=Limits(processes=64))
    bomb = f"f() {{ sleep {marker} & f & f & }}; f; wait"
    begun = time.monotonic()
    box.exec(["sh", "-c", bomb], timeout_s=1)
    assert time.monotonic() - begun < 4
    assert alive(marker) == []


def test_kill_all_ends_what_runs_and_says_how_many(box: Sandbox, marker: str, tmp_path: Path) -> None:
    results: list[ExecResult] = []
    command = ["sh", "-c", f"sleep {marker} & sleep {marker}"]
    waiting = threading.Thread(target=lambda: results.append(box.exec(command)))
    waiting.start()
    box.spawn(["sleep", marker], stderr_path=tmp_path / "e")
    assert slept_within(marker, 3, 10)
    assert box.kill_all() == 4
    waiting.join(10)
    assert results[0].stopped_by == "cancel"
    assert alive(marker) == []
    assert box.exec(["true"]).exit_code == 0


def test_closing_ends_what_runs(open_box: OpenBox, marker: str, tmp_path: Path) -> None:
    box = open_box()
    process = box.spawn(["sh", "-c", f"setsid sleep {marker} & wait"], stderr_path=tmp_path / "e")
    assert slept_within(marker, 1, 10)
    box.close()
    assert alive(marker) == []
    assert process.poll() == 137


def test_a_sandbox_outlives_the_thread_that_started_it(open_box: OpenBox, tmp_path: Path) -> None:
    boxes: list[Sandbox] = []
    processes = []

    def start() -> None:
        boxes.append(open_box())
        processes.append(boxes[0].spawn(["sh", "-c", "sleep 0.5; echo done"], stderr_path=tmp_path / "e"))

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    assert processes[0].stdout.read() == b"done\n"
    assert processes[0].wait(10).exit_code == 0
    assert boxes[0].exec(["true"]).exit_code == 0


@pytest.mark.parametrize("backend", BACKENDS[:2], indirect=True)
def test_a_killed_supervisor_is_a_lost_sandbox_and_takes_its_command_along(
    box: Sandbox, backend: str, marker: str, tmp_path: Path
) -> None:
    process = box.spawn(["sleep", marker], stderr_path=tmp_path / "e")
    assert slept_within(marker, 1, 10)
    supervisor = next(pid for pid in supervisors() if descends(sleepers(marker)[0], pid))

    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(SandboxLost, match="supervisor"):
        process.wait(10)
    assert gone_within(marker, 5)


def supervisors() -> list[int]:
    """Supervisor processes on this machine."""
    return alive("supervise.main()")


def descends(pid: int, ancestor: int) -> bool:
    """Whether ``ancestor`` is above ``pid``."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
