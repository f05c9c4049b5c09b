"""Whose bytes on the disk are whose: others' are not the command's, and nothing of the command's is hidden for long."""

from __future__ import annotations

from pathlib import Path

import pytest
from scan import OpenBox

from xar_agent.sandbox import Limits, Sandbox
from xar_agent.sandbox.reaper.disk import Disk

MIB = 1 << 20


@pytest.fixture
def backend() -> str:
    """The one that watches from this machine and isolates."""
    return "bubblewrap"


pytestmark = pytest.mark.bwrap


def fill(path: Path, mib: int) -> None:
    """Write so much that no file system can make it small."""
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(bytes(range(256)) * 4096)


def test_what_others_write_to_the_disk_does_not_end_an_honest_command(open_box: OpenBox, tmp_path: Path) -> None:
    box = open_box(limits=Limits(disk_mib=16))
    process = box.spawn(["sh", "-c", "sleep 0.5; echo begun; cat; echo done"], stderr_path=tmp_path / "e")
    assert process.stdout.readline() == b"begun\n"
    fill(tmp_path / "others", 64)
    process.stdin.close()
    result = process.wait(20)
    assert (result.exit_code, result.stopped_by) == (0, "")
    assert process.stdout.read() == b"done\n"


HIDDEN = """
import mmap, os, time
held = []
for n in range(40):
    fd = os.open("gone", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 16 << 20)
    held.append(mmap.mmap(fd, 16 << 20))
    os.unlink("gone")
    os.close(fd)
    for place in range(0, 16 << 20, 4096):
        held[-1][place] = 1
    held[-1].flush()
    time.sleep(0.05)
time.sleep(20)
"""


def test_files_that_are_mapped_deleted_and_closed_are_found_by_what_the_disk_lost(open_box: OpenBox) -> None:
    box = open_box(limits=Limits(disk_mib=8, memory_mib=None))
    assert box.exec([box.info.python, "-c", HIDDEN], timeout_s=30).stopped_by == "disk"


def over(open_box: OpenBox) -> Sandbox:
    """A sandbox whose /tmp holds more than the limit."""
    box = open_box(limits=Limits(disk_mib=16))
    filled = "mkdir $TMPDIR/d; while :; do head -c 1000000 /dev/zero > $TMPDIR/d/$((n=n+1)); sleep 0.005; done"
    assert box.exec(["sh", "-c", filled], timeout_s=20).stopped_by == "disk"
    return box


def test_after_a_disk_filler_the_next_command_works_and_can_clear_up(open_box: OpenBox) -> None:
    box = over(open_box)
    result = box.exec(["sh", "-c", "sleep 1; echo x > f; cat f; rm -r $TMPDIR/d"])
    assert (result.output, result.exit_code, result.stopped_by) == ("x\n", 0, "")
    assert box.exec(["sh", "-c", "head -c 8000000 /dev/zero > g; sleep 1"]).stopped_by == ""


def test_after_a_disk_filler_the_next_one_cannot_go_on_filling(open_box: OpenBox) -> None:
    box = over(open_box)
    more = "sleep 1; while :; do head -c 1000000 /dev/zero > more$((n=n+1)); sleep 0.02; done"
    assert box.exec(["sh", "-c", more], timeout_s=20).stopped_by == "disk"


def counted(disk: Disk) -> Disk:
    """After a whole count."""
    disk.step(1.0, slice_s=5.0)
    return disk


def test_a_place_that_cannot_be_counted_makes_the_disk_the_judge(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    seen, missing = counted(Disk([str(tmp_path)])), counted(Disk([str(tmp_path), str(tmp_path / "f" / "below")]))
    fill(tmp_path / "others", 40)
    assert not seen.is_over(16 * MIB, 0, sees_nameless=True)
    assert seen.is_over(16 * MIB, 0, sees_nameless=False)
    assert missing.is_over(16 * MIB, 0, sees_nameless=True)
