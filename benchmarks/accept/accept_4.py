"""The acceptance list of the fourth milestone: one PASS or FAIL a point, with the figure.

make accept-4                     about an hour on two cores: every cheat and every honest edit is really trained
make accept-4 ACCEPT="--only card --only dry-run"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from points import Point, Points, judge

from xar_agent.envs.spec import load_env
from xar_agent.sandbox.gpus import machine_gpus

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
COMMAND = [sys.executable, "-m", "xar_agent"]
EXAMPLES = ROOT / "examples" / "environments"
BETTER = BENCHMARKS / "accept" / "toy_better.diff"


def run(*words: str | Path, minutes: int = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of ours, its words on both streams kept."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60 * minutes,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a program said last."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}, no output"


def environments_check(folder: Path) -> Point:
    """``envs check`` of what is shipped, of the example and of a fresh scaffold."""
    made = run(*COMMAND, "envs", "init", "mine", "--dir", folder)
    names = ["toy", "nanogpt", *(f"{path.parent}/" for path in sorted(EXAMPLES.glob("*/env.toml"))), f"{folder}/mine/"]
    said, good = [], made.returncode == 0
    for name in names:
        done = run(*COMMAND, "envs", "check", name)
        good = good and done.returncode == 0
        said.append(f"{Path(name).name}: {last_line(done)}")
    return good, "; ".join(said)


def baselines(folder: Path) -> Point:
    """Shipped baselines are of these very files, with enough seeds."""
    shipped = {name: load_env(name).shipped_baseline(load_env(name).default_preset) for name in ("toy", "nanogpt")}
    good = all(baseline is not None and baseline.n >= 20 for baseline in shipped.values())
    return good, ", ".join(f"{name}: n = {baseline.n if baseline else None}" for name, baseline in shipped.items())


def program(*words: str, minutes: int = 60) -> Callable[[Path], Point]:
    """A point that is a benchmark's own verdict; its last line has the figures."""

    def check(folder: Path) -> Point:
        done = run(sys.executable, BENCHMARKS.joinpath(words[0]), *words[1:], minutes=minutes)
        return done.returncode == 0, last_line(done)

    return check


def gpu(folder: Path) -> Point:
    """``implement`` to a score on ``1gpu`` where there is a GPU."""
    if not machine_gpus().devices():
        return True, "not seen: this machine has no GPU"
    done = run(*COMMAND, "implement", "Halve the batch size.", "--preset", "1gpu", "--json", "--runs-dir", folder)
    return done.returncode == 0, done.stdout.strip()[:400] or last_line(done)


def dry_run(folder: Path) -> Point:
    """``full --dry-run`` says what a machine with eight GPUs would do."""
    words = [
        "implement",
        "Halve the batch size.",
        "--preset",
        "full",
        "--dry-run",
        "--json",
        "--runs-dir",
        folder / "r",
    ]
    done = run(*COMMAND, *words)
    if done.returncode != 0:
        return False, last_line(done)
    said = json.loads(done.stdout)
    text = json.dumps(said)
    wanted = ["torch.distributed.run", "--nproc-per-node", "launch.py", "train.py"]
    good = all(word in text for word in wanted) and not (folder / "r").exists()
    good = good and {"data", "memory", "job"} <= set(said)
    return good, f"keys {sorted(said)}"


def card(folder: Path) -> Point:
    """A card is reproduced from itself alone; a changed value is not."""
    words = ["--env", "toy", "--seeds", "2", "--runs-dir", folder, "--run", "r", "--json"]
    done = run(*COMMAND, "evaluate", BETTER, *words)
    if done.returncode != 0:
        return False, last_line(done)
    path = Path(json.loads(done.stdout)["card_path"])
    same = run(*COMMAND, "verify", path, "--runs-dir", folder)
    forged = folder / "forged.json"
    forged.write_text(path.read_text().replace('"verdict": "better"', '"verdict": "worse"'))
    tampered = run(*COMMAND, "verify", forged, "--runs-dir", folder)
    good = (same.returncode, tampered.returncode) == (0, 2)
    return good, f"as it is: exit {same.returncode}, {last_line(same)}; changed: exit {tampered.returncode}"


def audit(folder: Path) -> Point:
    """The recorded power of the audits: whatever is worth a standard deviation or more is caught."""
    found: dict[str, Any] = json.loads((BENCHMARKS / "audit" / "results.json").read_text())
    kinds = {**found["cpu"], "memory": found["warm"]}
    rates = [rate for by_size in kinds.values() for size, rate in by_size.items() if float(size) >= 1]
    accused = sum(n for by_check in found["accused"].values() for n in by_check.values())
    said = f"{len(kinds)} kinds of leak, {found['audits']} audits each: lowest rate {min(rates):.0%}; accused {accused}"
    return min(rates) == 1.0 and not accused, said


def points() -> Points:
    """Name, promise, check."""
    cheats = partial(program, "cheats/run.py", "--no-results", minutes=90)
    return {
        "check": ("envs check is green for toy, nanogpt, the example and a scaffold", environments_check),
        "baselines": ("shipped baselines have n >= 20", baselines),
        "ranking": (
            "the ranking set comes out right in 95 % of draws of 3 seeds",
            program("ranking/measure.py", "judge"),
        ),
        "cheats": ("every cheat is caught by name", cheats()),
        "cheats-toy": ("so are those of toy", cheats("--env", "toy")),
        "blind": ("so are 15 by someone who had not seen the checks", cheats("--blind")),
        "honest": ("30 honest edits: none accused", cheats("--honest")),
        "audit": ("a leak worth a standard deviation is caught, diluted or not", audit),
        "gpu": ("implement to a score on 1gpu", gpu),
        "dry-run": ("full --dry-run is right without GPUs", dry_run),
        "card": ("a result card is reproduced, a changed one refused", card),
    }


def main() -> int:
    """Exit code 0 when every point passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], choices=list(points()), help="repeat for several")
    return judge(points(), parser.parse_args().only)


if __name__ == "__main__":
    sys.exit(main())
