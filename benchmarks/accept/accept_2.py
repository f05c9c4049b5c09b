"""The acceptance list of the second milestone: one PASS or FAIL a point, with the figure.

make accept-2                          searches over nanogpt and the no-op measurement are really run where not recorded
make accept-2 ACCEPT="--run-dir DIR"   takes the recorded run of that folder; may be given several times
python benchmarks/accept/accept_2.py --only kill --only disk
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

from budgets import budgets
from children import all_fail, four_children
from disk import full_disk
from kills import kill_nine
from network import dead_network
from points import Point, Points, judge
from recorded import given_runs, knobs, no_ops, paper
from stops import ctrl_c

ROOT = Path(__file__).resolve().parents[2]


def twenty_budgets(folder: Path) -> Point:
    """Real searches, and for GPU-hours, which nothing uses without a GPU, the loop over a landscape."""
    passed, figure = budgets(folder)
    argv = [sys.executable, "-m", "pytest", "-q", "tests/population/test_evolve.py", "-k", "twenty_random_budgets"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    words = f"GPU-hours cannot bind on a CPU, 20 more on the landscape: {done.stdout.strip().splitlines()[-1]}"
    return passed and done.returncode == 0, f"{figure}; {words}"


def points(runs: list[Path], measure: bool) -> Points:
    """Short name -> what is promised, and its check in a folder of its own."""
    return {
        "knobs": ("a confirmed patch without a model in under 60 minutes", partial(knobs, runs=runs)),
        "paper": ("policy paper on the embedded model runs to its end", partial(paper, runs=runs)),
        "aa": ("searches with nothing to find find nothing", lambda _: no_ops(measure)),
        "kill": ("kill -9 at 30 random moments", kill_nine),
        "budgets": ("20 random budget settings", twenty_budgets),
        "children": ("four children of one parent show its patch", four_children),
        "failures": ("an epoch where every idea fails", all_fail),
        "network": ("a dead network", dead_network),
        "disk": ("a disk that fills up in the middle", full_disk),
        "ctrl-c": ("Ctrl-C leaves no process", ctrl_c),
    }


def main() -> int:
    """Exit code 0 when every point passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", action="append", default=[], help="folder of a finished run, for knobs and paper")
    parser.add_argument("--measure", action="store_true", help="run the no-op measurement again (hours)")
    parser.add_argument("--only", action="append", default=[], choices=list(points([], False)), metavar="POINT")
    arguments = parser.parse_args()
    return judge(points(given_runs(arguments.run_dir), arguments.measure), arguments.only)


if __name__ == "__main__":
    sys.exit(main())
