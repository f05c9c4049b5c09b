"""A disk that somebody else fills is nobody's idea; one that the candidate fills is."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xar_agent.errors import StoreError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.smoke import run_smoke

Edit = Callable[..., str]
MIB = 1 << 20
LEARNS = "    lr = learning_rate(stream.fraction_used)\n"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
    pytest.mark.parametrize("backend", ["process"], indirect=True),
]


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Path]:
    """The bench's scratch folder as a disk of 300 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(bench.scratch)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this root may not mount")
    try:
        yield bench.scratch
    finally:
        subprocess.run(["umount", "--lazy", str(bench.scratch)], check=True)


def fill_when(disk: Path, pattern: str) -> threading.Thread:
    """Fill the disk up to 1 MiB as soon as something of that name is there."""

    def fill() -> None:
        deadline = time.monotonic() + 30
        while not list(disk.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - MIB))

    thread = threading.Thread(target=fill)
    thread.start()
    return thread


def test_training_that_is_stopped_because_others_filled_the_disk_is_nobodys_idea(
    bench: Bench, edit: Edit, small_disk: Path, tmp_path: Path
) -> None:
    tree = edit({"train.py": ("    step = 0\n", "    step = 0\n    __import__('time').sleep(20)\n")})
    filling = fill_when(small_disk, "smoke-*/train")
    with pytest.raises(StoreError, match="is full"):
        run_smoke(bench, tree, log_path=tmp_path / "smoke.log")
    filling.join()


def test_an_evaluation_that_is_stopped_because_others_filled_the_disk_is_nobodys_idea(
    bench: Bench, edit: Edit, small_disk: Path, tmp_path: Path
) -> None:
    load = "    return NgramModel(json.loads"
    tree = edit({"model.py": (load, f"    __import__('time').sleep(20)\n{load}")})
    filling = fill_when(small_disk, "smoke-*/evaluate/worker-*")
    with pytest.raises(StoreError, match="is full"):
        run_smoke(bench, tree, log_path=tmp_path / "smoke.log")
    filling.join()


@pytest.mark.usefixtures("small_disk")
def test_a_candidate_that_fills_the_disk_itself_is_to_blame(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    hoard = f"    step = 0\n    Path('hoard').write_bytes(bytes({200 * MIB}))\n    __import__('time').sleep(20)\n"
    report = run_smoke(bench, edit({"train.py": ("    step = 0\n", hoard)}), log_path=tmp_path / "smoke.log")
    assert report.failure is not None
    assert report.failure.reason == "wrote more to disk than allowed"
