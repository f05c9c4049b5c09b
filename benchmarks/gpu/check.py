"""All that only a GPU shows, in under 40 minutes: a product in each back end, the tests marked ``gpu``; then a record.

    python benchmarks/gpu/check.py [--out FOLDER]

Writes FOLDER/DATE-DEVICE.json and a row of FOLDER/README.md. Exit code 0 when all of it is right, 1 when something is
wrong, 3 without a GPU: then nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xar_agent.errors import XarError
from xar_agent.sandbox.gpu_check import GpuReport, check_gpus
from xar_agent.sandbox.gpus import Found, machine_gpus

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from machine import about_now  # noqa: E402

BACKENDS = ("docker", "bubblewrap")
WHOLE_S = 40 * 60
PRODUCT_S = 5 * 60
TABLE = """# What was seen on real GPUs

`make gpu-check` adds a row, and a file with all figures: each back end computes a product of two half-precision
matrices on one leased device, and the tests marked `gpu` run.

| date (UTC) | device | driver | commit | docker | bubblewrap | tests | took |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Tests:
    """How the tests marked ``gpu`` ended."""

    passed: int
    failed: tuple[str, ...]
    skipped: dict[str, str]
    """By test, why."""
    seconds: float
    ending: str
    """Empty, or why there may be more that never ran."""


def main() -> int:
    """Look, try, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out: Path = parser.parse_args().out
    begun = time.monotonic()
    try:
        found = machine_gpus().source()
    except XarError as error:
        found = Found(left_out=(error.message,))
    if not found.devices:
        why = "; ".join(found.left_out) or "no driver found"
        print(f"no GPU can be used on this machine ({why}): nothing was checked, nothing written", file=sys.stderr)
        return 3
    checks = [say(check_gpus(backend, timeout_s=PRODUCT_S)) for backend in BACKENDS]
    tests = run_tests(WHOLE_S - (time.monotonic() - begun))
    print(f"tests: {summary(tests)}", flush=True)
    write(out, record(found, checks, tests, time.monotonic() - begun))
    usable = [check for check in checks if check.device]
    right = bool(usable) and all(check.ok for check in usable) and not tests.failed and not tests.ending
    return 0 if right else 1


def say(check: GpuReport) -> GpuReport:
    """Show a line while the rest is under way."""
    print(f"{check.backend}: {check.line}", flush=True)
    return check


def run_tests(limit_s: float) -> Tests:
    """``pytest -m gpu``, ended when its time is over."""
    begun = time.monotonic()
    ending = ""
    with tempfile.TemporaryDirectory(prefix="xar-gpu-tests-") as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}"]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, "XAR_REQUIRE_GPU": "1"}, timeout=limit_s, check=False
            )
            ending = "" if done.returncode in (0, 1) else f"pytest ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            ending = f"ended after {limit_s:.0f} s"
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    names = {f"{case.get('classname')}::{case.get('name')}": case for case in cases}
    failed = tuple(
        name for name, case in names.items() if case.find("failure") is not None or case.find("error") is not None
    )
    skipped = {
        name: str(mark.get("message")) for name, case in names.items() if (mark := case.find("skipped")) is not None
    }
    passed = len(names) - len(failed) - len(skipped)
    return Tests(passed, failed, skipped, time.monotonic() - begun, ending)


def record(found: Found, checks: list[GpuReport], tests: Tests, seconds: float) -> dict[str, Any]:
    """What is kept."""
    return {
        **about_now(),
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else ""),
        "devices": [asdict(device) for device in found.devices],
        "left_out": list(found.left_out),
        "driver": driver_version(),
        "checks": [asdict(check) for check in checks],
        "tests": asdict(tests),
        "seconds": round(seconds, 1),
    }


def write(out: Path, kept: dict[str, Any]) -> None:
    """The record and its row."""
    device = kept["devices"][0]["name"]
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    path = out / f"{kept['date'][:16].replace(':', '')}-{slug}.json"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n")
    table = out / "README.md"
    text = table.read_text() if table.exists() else TABLE
    by_name = {check["backend"]: check for check in kept["checks"]}
    cells = [
        f"[{kept['date'][:16].replace('T', ' ')}]({path.name})",
        f"{len(kept['devices'])} x {device}",
        kept["driver"],
        kept["commit"],
        *(cell(by_name[backend]) for backend in BACKENDS),
        summary(Tests(**kept["tests"])),
        f"{kept['seconds'] / 60:.1f} min",
    ]
    table.write_text(text + f"| {' | '.join(cells)} |\n")
    print(f"written: {path}")


def cell(check: dict[str, Any]) -> str:
    """One back end in the table."""
    return f"{check['tflops']:.0f} TFLOP/s" if check["ok"] else f"no: {check['line']}".replace("|", "/")


def summary(tests: Tests) -> str:
    """Counts."""
    parts = [f"{tests.passed} passed", f"{len(tests.failed)} failed", f"{len(tests.skipped)} skipped", tests.ending]
    return ", ".join(filter(None, parts))


def driver_version() -> str:
    """As the driver says it; empty where it is not asked."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def git(*words: str) -> str:
    """What git says; empty outside a clone."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
