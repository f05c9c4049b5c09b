"""Leases on made devices: exclusive over processes, threads and users, in turn, and free when the holder is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from made_gpus import made_gpus, wait_for_wishes

from xar_agent.errors import CapabilityMissing, Interrupted
from xar_agent.sandbox.gpu_driver import Found
from xar_agent.sandbox.gpus import Gpus
from xar_agent.sandbox.leases import LeaseFolder

N_PROCESSES, N_JOBS, N_DEVICES = 4, 200, 4
HOLD = """
import sys, time
from pathlib import Path
from xar_agent.sandbox.leases import LeaseFolder
with LeaseFolder(Path(sys.argv[1])).hold(sys.argv[2:], 1) as names:
    print(*names, flush=True)
    time.sleep(600)
"""
WORK = """
import os, random, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xar_agent.sandbox.leases import LeaseFolder

folder, log, n_jobs, names = LeaseFolder(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
marks = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def job(number):
    with folder.hold(names, 1 + (number % 10 == 0)) as held:
        for name in held:
            os.write(marks, f"{name} {os.getpid()}.{number} in\\n".encode())
        time.sleep(random.uniform(0, 0.02))
        for name in held:
            os.write(marks, f"{name} {os.getpid()}.{number} out\\n".encode())

with ThreadPoolExecutor(10) as pool:
    list(pool.map(job, range(n_jobs)))
"""


@pytest.fixture
def gpus(tmp_path: Path) -> Gpus:
    """Four devices."""
    return made_gpus(tmp_path, N_DEVICES)


@contextmanager
def holder(gpus: Gpus) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with a lease on one device, and which."""
    command = [sys.executable, "-c", HOLD, str(gpus.folder), *(device.uuid for device in gpus.devices())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_200_jobs_of_several_processes_and_threads_never_share_a_device(gpus: Gpus, tmp_path: Path) -> None:
    log = tmp_path / "log"
    names = [device.uuid for device in gpus.devices()]
    command = [sys.executable, "-c", WORK, str(gpus.folder), str(log), str(N_JOBS // N_PROCESSES), *names]
    workers = [subprocess.Popen(command) for _ in range(N_PROCESSES)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * N_PROCESSES
    holders: dict[str, str] = {}
    jobs, together = set(), 0
    for line in log.read_text().splitlines():
        name, job, what = line.split()
        if what == "in":
            assert name not in holders, f"{job} got what {holders[name]} has"
            holders[name] = job
        else:
            assert holders.pop(name) == job
        jobs.add(job)
        together = max(together, len(holders))
    assert len(jobs) == N_JOBS
    assert together == N_DEVICES
    assert gpus.leases() == ()


def test_a_killed_holders_device_is_free_at_once(gpus: Gpus) -> None:
    one = replace(gpus, source=lambda: Found(gpus.devices()[:1]))
    with holder(one) as (process, name):
        assert [(held.name, held.pid, held.uid) for held in gpus.leases()] == [(name, process.pid, os.geteuid())]
        with (
            pytest.raises(CapabilityMissing, match="1 of 1 devices did not come free within 0.2 s") as caught,
            one.lease(1, timeout_s=0.2),
        ):
            pass
        assert str(process.pid) in caught.value.hint
        process.kill()
        process.wait()
        begun = time.monotonic()
        assert gpus.leases() == ()
        with one.lease(1, timeout_s=5) as leased:
            assert time.monotonic() - begun < 1
            assert leased[0].uuid == name


def test_what_killed_processes_left_in_the_queue_holds_nobody_up_and_is_removed(gpus: Gpus) -> None:
    one = replace(gpus, source=lambda: Found(gpus.devices()[:1]))
    with one.lease(1):
        command = [sys.executable, "-c", HOLD, str(one.folder), one.devices()[0].uuid]
        waiting = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
        wait_for_wishes(one, 3)
        for process in waiting:
            process.kill()
            process.communicate()
    with one.lease(1, timeout_s=5):
        assert not list(one.folder.glob("wait-*"))


def test_whoever_asked_first_is_served_first_also_when_he_wants_more(gpus: Gpus) -> None:
    served: list[int] = []
    wishes = [1, 4, 1, 2, 4, 1]

    def take(number: int) -> None:
        with gpus.lease(wishes[number], timeout_s=30):
            served.append(number)
            time.sleep(0.1)

    with ThreadPoolExecutor(len(wishes)) as pool, gpus.lease(4):
        for number in range(len(wishes)):
            pool.submit(take, number)
            wait_for_wishes(gpus, number + 1)
    # The third and the fourth fit beside each other: which of the two notes first that it has what it wanted is open.
    assert [served[0], served[1], *sorted(served[2:4]), *served[4:]] == [0, 1, 2, 3, 4, 5]


def test_wishes_for_other_devices_do_not_wait_for_each_other(gpus: Gpus) -> None:
    left, right = (
        replace(gpus, source=lambda part=part: Found(gpus.devices()[part])) for part in (slice(2), slice(2, 4))
    )
    queued = threading.Event()
    with left.lease(2), ThreadPoolExecutor(1) as pool:

        def wait_in_vain() -> None:
            with pytest.raises(Interrupted), left.lease(1, cancel=queued):
                pass

        waiting = pool.submit(wait_in_vain)
        wait_for_wishes(gpus, 1)
        with right.lease(2, timeout_s=1) as leased:
            assert {device.uuid for device in leased} == {device.uuid for device in right.devices()}
        queued.set()
        waiting.result(timeout=5)


def test_more_than_there_are_is_refused_at_once(gpus: Gpus) -> None:
    with pytest.raises(CapabilityMissing, match="5 GPUs wanted, 4 can be used here"), gpus.lease(5):
        pass
    assert not gpus.folder.exists()


def test_waiting_ends_with_a_cancellation_and_leaves_the_queue(gpus: Gpus) -> None:
    cancel = threading.Event()
    with gpus.lease(4):
        timer = threading.Timer(0.2, cancel.set)
        timer.start()
        begun = time.monotonic()
        with pytest.raises(Interrupted), gpus.lease(1, cancel=cancel):
            pass
        timer.join()
        assert 0.1 < time.monotonic() - begun < 3
        assert not list(gpus.folder.glob("wait-*"))
    with gpus.lease(4, timeout_s=1):
        pass


def test_an_error_in_the_work_frees_the_devices(gpus: Gpus) -> None:
    with pytest.raises(ZeroDivisionError), gpus.lease(4):
        1 / 0  # noqa: B018
    with gpus.lease(4, timeout_s=1):
        pass


def test_a_child_process_does_not_keep_a_lease(gpus: Gpus) -> None:
    with gpus.lease(4):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with gpus.lease(4, timeout_s=1):
            pass
    finally:
        child.kill()
        child.wait()


def test_links_and_folders_where_others_could_remove_locks_are_refused(gpus: Gpus, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    gpus.folder.mkdir()
    (gpus.folder / f"{gpus.devices()[0].uuid}.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(CapabilityMissing, match="leases cannot be kept in") as caught, gpus.lease(1):
        pass
    assert "XAR_GPU_LEASES" in caught.value.hint
    shutil.rmtree(gpus.folder)
    gpus.folder.symlink_to(tmp_path)
    with pytest.raises(CapabilityMissing, match="leases cannot be kept in"), gpus.lease(1):
        pass
    gpus.folder.unlink()
    gpus.folder.mkdir()
    gpus.folder.chmod(0o777)
    with pytest.raises(CapabilityMissing, match="others may remove locks there"), gpus.lease(1):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_strange_files_in_the_folder_change_nothing(gpus: Gpus) -> None:
    with gpus.lease(1):
        pass
    (gpus.folder / "wait-x-y-z").write_text("GPU")
    (gpus.folder / f"held-{0:020d}-1-1").write_bytes(b"\xff" * 20_000)
    os.mkfifo(gpus.folder / f"wait-{0:020d}-1-2")
    with gpus.lease(4, timeout_s=1):
        assert len(gpus.leases()) == 4


def test_a_lock_file_that_was_removed_is_made_again_and_still_excludes(gpus: Gpus) -> None:
    with gpus.lease(4):
        pass
    for lock in gpus.folder.glob("*.lock"):
        lock.unlink()
    with gpus.lease(4, timeout_s=1), pytest.raises(CapabilityMissing), gpus.lease(1, timeout_s=0.2):
        pass


def test_two_users_share_one_folder_whatever_their_umask() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    code = """
import os, sys
from pathlib import Path
from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox.leases import LeaseFolder
os.umask(0o077)
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    with LeaseFolder(Path(sys.argv[1])).hold(["a", "b"], int(sys.argv[3]), timeout_s=0.3) as names:
        print(*names, flush=True)
        sys.stdin.read()
except CapabilityMissing as error:
    print(error.hint)
"""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o1777)
    try:

        def user(uid: int, count: int) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", code, str(place / "leases"), str(uid), str(count)]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        first = user(65_001, 1)
        assert first.stdout is not None
        assert first.stdout.readline() == "a\n"
        assert user(65_002, 2).communicate()[0] == f"held by the processes {first.pid}\n"
        assert user(65_002, 1).communicate("")[0] == "b\n"
        first.communicate("")
        assert user(65_002, 2).communicate("")[0] == "a b\n"
        assert LeaseFolder(place / "leases").held() == ()
    finally:
        shutil.rmtree(place)
