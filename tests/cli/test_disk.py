"""A full disk: one line, exit code 1, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PATCH = """--- a/train.py
+++ b/train.py
@@ -1,1 +1,1 @@
-\"\"\"Train the n-gram model of model.py once over the tokens that the host hands out, then save it.
+\"\"\"Train the n-gram model of model.py over the tokens that the host hands out, then save it.
"""


def tiny_disk(folder: Path, size: str) -> list[str]:
    """A command in front of another one, which then sees a disk of this size at the folder; gone when it ends."""
    script = f'mount -t tmpfs -o size={size} tiny "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(folder)]


def can_mount(folder: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run([*tiny_disk(folder, "40k"), "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "words.patch"
    path.write_text(PATCH)
    return path


def is_told(ended: Any) -> bool:
    assert ended.code == 1, ended
    assert ended.error_lines[-1] == f"error: {ended.json['error']}; {ended.json['hint']}"
    return "--runs-dir" in ended.json["hint"] or "ulimit" in ended.json["hint"]


@pytest.mark.bwrap
def test_a_nearly_full_disk_is_refused_before_anything_is_written(xar: Any, runs_dir: Path, patch: Path) -> None:
    if not can_mount(runs_dir):
        pytest.skip("mounting a small disk needs root")
    ended = xar("evaluate", patch, "--env", "toy", "--json", prefix=tiny_disk(runs_dir, "300k"))
    assert is_told(ended)
    assert "full" in ended.json["error"]


@pytest.mark.bwrap
@pytest.mark.parametrize("limit", [2_000, 30_000])
def test_records_that_cannot_be_written_end_the_command_and_leave_no_half_run(
    xar: Any, runs_dir: Path, patch: Path, limit: int
) -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("limiting the size of files needs prlimit")
    ended = xar("evaluate", patch, "--env", "toy", "--json", prefix=["prlimit", f"--fsize={limit}"])
    assert is_told(ended)
    assert list(runs_dir.iterdir()) == []
