"""Measure our sandboxes and those of mini-swe-agent, SWE-ReX and inspect_ai, all in one run.

python benchmarks/sandbox/run.py                        everything; results.json and README.md beside this file
python benchmarks/sandbox/run.py --backends bubblewrap --peers swe-rex --n 20 --out some.json
python benchmarks/sandbox/run.py --check results.json   PASS or FAIL for each acceptance figure of our back ends
python benchmarks/sandbox/run.py --table results.json   README.md's tables again
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accept import check
from contender import Entry, kill_marked
from hostile import CASES, FLOOD_MIB
from measure import (
    DEADLINE_S,
    RUN,
    SETTLE_S,
    Field,
    attempts,
    latencies,
    starts,
)
from memory import flood
from peers import PEERS, peers_python, pins
from table import write_readme

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import about_now, load_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package

BACKENDS = ("docker", "bubblewrap", "process")


def entries_of(backends: Sequence[str], peers: Sequence[str], image: str) -> tuple[list[Entry], dict[str, str]]:
    """Who takes part, and who cannot, with the reason."""
    entries = [Entry(name, True, ("ours.py", name, *([image] if image else []))) for name in backends]
    if not peers:
        return entries, {}
    python, why = peers_python()
    missing = {name: f"not installable here: {why[PEERS[name][0]]}" for name in peers if PEERS[name][0] in why}
    entries += [Entry(name, False, PEERS[name][1], python) for name in peers if name not in missing]
    return entries, missing


def measure(entries: Sequence[Entry], options: argparse.Namespace, scratch: Path) -> tuple[dict[str, Any], Any]:
    """Figures by contender, and the load at each stage."""
    load = {"latency": load_now()}
    field = Field(entries, scratch)
    try:
        figures: dict[str, Any] = {
            name: {"ours": name in BACKENDS, "about": without_paths(one.about), "load_s": one.load_s}
            for name, one in field.running.items()
        }
        say(f"exec latency and start time of {', '.join(figures)}")
        for name, times in latencies(field, options.n).items():
            figures[name]["exec_ms"] = times
        load["start"] = load_now()
        for name, found in starts(field, options.starts).items():
            figures[name]["starts"] = [asdict(one) for one in found]
    finally:
        field.end()
    able = [entry for entry in entries if entry.name in field.running]
    for case in CASES:
        load[case] = load_now()
        say(f"deadline: {case}")
        for name, tried in attempts(able, case, n=options.attempts, cap_s=options.cap_s, scratch=scratch).items():
            figures[name].setdefault("cases", {})[case] = [asdict(one) for one in tried]
    load["memory"] = load_now()
    for entry in able:
        say(f"memory: {entry.name}")
        figures[entry.name]["memory"] = asdict(flood(entry, scratch))
    return {
        **figures,
        **{name: {"ours": name in BACKENDS, "unavailable": why} for name, why in field.broken.items()},
    }, load


def without_paths(words: str) -> str:
    """Where things lie on the machine that measured is nobody's business."""
    return re.sub(r" \(/[^)]*\)", "", words)


def say(what: str) -> None:
    """Progress, one line."""
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    """Exit code 0; with --check, 1 when a figure fails."""
    options = parse()
    if options.check:
        return check(json.loads(options.check.read_text()))
    if options.table:
        write_readme(json.loads(options.table.read_text()), HERE / "README.md")
        return 0
    entries, missing = entries_of(options.backends, options.peers, options.image)
    about = {
        **about_now(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "user": "root" if os.geteuid() == 0 else "ordinary",
    }
    try:
        with tempfile.TemporaryDirectory(prefix="xar-bench-", ignore_cleanup_errors=True) as scratch:
            Path(scratch).chmod(0o755)  # commands of a sandbox may run as another user
            figures, load = measure(entries, options, Path(scratch))
    finally:
        kill_marked(RUN)
    missed = {name: {"ours": False, "unavailable": why} for name, why in missing.items()}
    settings = {"n": options.n, "starts": options.starts, "attempts": options.attempts, "cap_s": options.cap_s}
    fixed = {"deadline_s": DEADLINE_S, "settle_s": SETTLE_S, "flood_mib": FLOOD_MIB}
    result = {
        "about": about,
        "load": {**load, "end": load_now()},
        "settings": {**settings, **fixed, "pins": list(pins().values())},
        "contenders": {**figures, **missed},
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.out.resolve() == HERE / "results.json":
        write_readme(result, HERE / "README.md")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--image", default="", help="of the docker back end; else its own default")
    parser.add_argument("--n", type=int, default=200, help="timed commands per contender")
    parser.add_argument("--starts", type=int, default=20, help="timed sandboxes per contender")
    parser.add_argument("--attempts", type=int, default=3, help="per contender and hostile case")
    parser.add_argument("--cap-s", type=float, default=60.0, help="a contender that takes longer over 2 s is ended")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--check", type=Path, metavar="RESULTS", help="judge a measurement instead")
    parser.add_argument("--table", type=Path, metavar="RESULTS", help="write README.md from a measurement instead")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
