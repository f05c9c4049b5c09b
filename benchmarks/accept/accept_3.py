"""The acceptance list of the third milestone: one PASS or FAIL a point, with the figure.

make accept-3                     as root; an engine is needed: eval "$(make -s engine-start)"; make engine-images
make accept-3 ACCEPT="--measure"  measures the sandbox benchmark again instead of judging the recorded one
python benchmarks/accept/accept_3.py --only kill --only hostile --episodes 20
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from points import Point, Points, judge

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("contract", "isolation", "limits", "driver_death", "hostile_commands", "hostile_files", "docker")
BENCHMARK = ROOT / "benchmarks" / "sandbox"


def pytest(*words: str, minutes: int = 20, **environment: str) -> subprocess.CompletedProcess[str]:
    """Tests on a machine that must have an engine and bubblewrap."""
    required = {"XAR_REQUIRE_DOCKER": "1", "XAR_REQUIRE_BWRAP": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=ROOT,
        env={**os.environ, **required},
        capture_output=True,
        text=True,
        timeout=60 * minutes,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Pytest's summary, or what it died of."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}, no output"


def suites(folder: Path) -> Point:
    """Contract and hostile suites, twice in a row, nothing skipped on the two isolating back ends."""
    files = [str(path) for name in SUITES for path in sorted((ROOT / "tests" / "sandbox").glob(f"test_{name}*.py"))]
    said, good = [], True
    for _ in range(2):
        done = pytest("-n", "2", "-m", "not soak and not gpu", *files)
        missing = re.findall(r"^(?:SKIPPED|FAILED|ERROR) .*", done.stdout, flags=re.MULTILINE)
        good = good and done.returncode == 0 and not missing
        said += [last_line(done), *missing]
    return good, "; ".join(said)


def in_tests(*words: str) -> Callable[[Path], Point]:
    """A point that is a test of the suite."""

    def check(folder: Path) -> Point:
        done = pytest(*words, minutes=60)
        figures = [line for line in done.stdout.splitlines() if line.startswith("figure: ")]
        return done.returncode == 0 and " passed" in last_line(done), "; ".join([last_line(done), *figures])

    return check


def by_back_end(*script: str, minutes: int, words: tuple[str, ...] = ()) -> Callable[[Path], Point]:
    """A point that is a program run once for each isolating back end; its last line has the figures."""

    def check(folder: Path) -> Point:
        said, good = [], True
        for backend in ("docker", "bubblewrap"):
            command = [sys.executable, str(ROOT.joinpath(*script)), backend, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 * minutes)
            good = good and done.returncode == 0
            said.append(f"{backend}: {last_line(done)}")
        return good, "; ".join(said)

    return check


def benchmark(folder: Path, *, measure: bool) -> Point:
    """No survivor, overshoot under 1 s, memory flat, beside the peers."""
    recorded = BENCHMARK / "results.json"
    if measure:
        recorded = folder / "results.json"
        run = [sys.executable, str(BENCHMARK / "run.py"), "--out", str(recorded)]
        subprocess.run(run, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=3600)
    judge = [sys.executable, str(BENCHMARK / "run.py"), "--check", str(recorded)]
    done = subprocess.run(judge, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode == 0, "; ".join(done.stdout.strip().splitlines())


def doctor(folder: Path) -> Point:
    """It says what will be used and why, and cleans up without complaint."""
    command = [sys.executable, "-m", "xar_agent", "doctor"]
    told = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    clean = subprocess.run([*command, "--clean"], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    names = ", ".join(json.loads(told.stdout)) if told.returncode == 0 else told.stderr.strip()[-200:]
    return told.returncode == 0 and clean.returncode == 0, f"{names}; --clean: exit {clean.returncode}"


def points(measure: bool, episodes: int) -> Points:
    """Short name -> what is promised, and its check in a folder of its own."""
    return {
        "suites": ("contract and hostile suites green on docker and bubblewrap, twice in a row", suites),
        "implement": (
            "implement --sandbox docker on toy and nanogpt with the CPU image",
            in_tests("tests/cli/test_docker_runs.py"),
        ),
        "kill": (
            f"{episodes} SIGKILLs of ours at random moments leave nothing after 5 s and a start",
            by_back_end("tests", "sandbox", "kill_episodes.py", minutes=60, words=(str(episodes),)),
        ),
        "hostile": (
            "evolve with four hostile candidates of twelve: the honest ones' scores are those of a clean run",
            by_back_end("benchmarks", "accept", "hostile_search.py", minutes=30),
        ),
        "leases": ("200 jobs on 4 devices, 0 overlaps", in_tests("tests/sandbox/test_leases.py")),
        "doctor": ("doctor says what will be used and why; --clean", doctor),
        "benchmark": ("latency, overshoot, survivors and memory beside the peers", partial(benchmark, measure=measure)),
    }


def main() -> int:
    """Exit code 0 when every point passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run the sandbox benchmark again (ten minutes)")
    parser.add_argument("--episodes", type=int, default=200, help="of SIGKILL, for each back end")
    parser.add_argument("--only", action="append", default=[], choices=list(points(False, 0)), metavar="POINT")
    arguments = parser.parse_args()
    return judge(points(arguments.measure, arguments.episodes), arguments.only)


if __name__ == "__main__":
    sys.exit(main())
