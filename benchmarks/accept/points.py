"""An acceptance list: one PASS or FAIL a point, with the figure."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

Point = tuple[bool, str]
"""Passed, the figure."""
Points = Mapping[str, tuple[str, Callable[[Path], Point]]]
"""Short name -> what is promised, and its check in a folder of its own."""


def judge(points: Points, only: Collection[str]) -> int:
    """Check each point, or only some; exit code 0 when every one passes."""
    failed = 0
    for name, (promise, check) in points.items():
        if only and name not in only:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"accept-{name}-") as scratch:
            try:
                passed, figure = check(Path(scratch))
            except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                passed, figure = False, f"{type(error).__name__}: {error}"
        failed += not passed
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{'PASS' if passed else 'FAIL'}  {promise} ({took}): {figure}", flush=True)
    return 1 if failed else 0
