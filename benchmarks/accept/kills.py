"""kill -9 of the driver at random moments: the same command must then decide, measure and pay as if undisturbed."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toy_search import EPOCHS, Bills, Point, bills, decisions, environment, run, search, unfinished, write_script

KILLS = 30
N_IDEAS = sum(map(len, EPOCHS))
MARKS = {
    "evaluating": "job-*/evaluate",
    "training": "job-*/train",
    "comparing": "compare-*",
    "smoke": "smoke-*",
    "implementing": "implement-*",
    "probing": "probe-*",
}
"""Phase -> the folder in the run's scratch that is there while it lasts; the first that is found tells it."""
AIMED: dict[str, str] = {
    "a proposal's reply was recorded": "ideate/proposal-*.jsonl",
    "an episode wrote its smoke report": "impl/*/smoke.json",
    "an episode wrote its patch": "impl/*/patch.diff",
    "an attempt began": "jobs/*/start-*",
    "an evaluation was written": "jobs/*/evaluation.json",
}
"""Moments too short to be hit by chance, each known by a file that appears."""
LOOK_S = 0.0005


@dataclass
class Rough:
    """Runs that are killed, and what was seen."""

    folder: Path
    script: Path
    calm_s: float
    start_s: float
    """Of a command that finds nothing left to do."""
    rng: random.Random
    kills: int = 0
    runs: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    extra_requests: int = 0
    unsettled: int = 0

    @property
    def run_dir(self) -> Path:
        """Of the run at hand."""
        return self.folder / f"rough{self.runs}"

    def argv(self) -> list[str]:
        """The command, the same each time."""
        return search(self.script, self.folder, self.run_dir.name)

    def kill_after(self, moment: Callable[[], bool]) -> bool:
        """Start the command and kill it at the moment; False when it ended before."""
        before = changed_at(self.run_dir)
        with (self.folder / "driver.log").open("ab") as log:
            child = subprocess.Popen(self.argv(), stdout=log, stderr=log, env=environment())
            while child.poll() is None and not moment():
                time.sleep(LOOK_S)
            ended = child.poll() is not None
            child.kill()
            child.wait()
        if not ended:
            self.kills += 1
            self.phases[phase(self.run_dir, before)] += 1
        return not ended

    def left_s(self) -> float:
        """About how long the rest of the run takes, the start of the command included."""
        left = N_IDEAS - len(decisions(self.run_dir, "result"))
        return self.start_s + (self.calm_s - self.start_s) * left / N_IDEAS


def changed_at(run_dir: Path) -> int:
    """When the folder of working folders was changed last: a command that has begun makes it anew."""
    try:
        return (run_dir / "scratch").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def phase(run_dir: Path, before: int) -> str:
    """What a killed driver was at."""
    scratch = run_dir / "scratch"
    if changed_at(run_dir) == before:
        return "starting"
    for name, pattern in MARKS.items():
        if any(scratch.glob(pattern)):
            return name
    ended = {line["idea_id"] for line in decisions(run_dir, "result")}
    proposed = [idea for line in decisions(run_dir, "proposal") for idea in line["ideas"]]
    return "between" if len(ended) < len(proposed) else "proposing"


def random_kills(rough: Rough, calm_dir: Path) -> None:
    """Each process is killed at a random moment of what is left to do; a run that ended is followed by a new one."""
    while rough.kills < KILLS:
        deadline = time.monotonic() + rough.rng.uniform(0.0, rough.left_s())
        whole = len(decisions(rough.run_dir, "result")) == N_IDEAS
        if whole or not rough.kill_after(lambda limit=deadline: time.monotonic() >= limit):  # type: ignore[misc]
            finish(rough, calm_dir)
    finish(rough, calm_dir)


def aimed_kills(rough: Rough, calm_dir: Path) -> int:
    """One kill right after each of some files has appeared; how many hit."""
    before = rough.kills
    for pattern in AIMED.values():
        known = set(rough.run_dir.glob(pattern))
        rough.kill_after(lambda p=pattern, k=known: bool(set(rough.run_dir.glob(p)) - k))  # type: ignore[misc]
    finish(rough, calm_dir)
    return rough.kills - before


def finish(rough: Rough, calm_dir: Path) -> None:
    """Let the run come to its end, compare it with the undisturbed one, and go over to the next."""
    ended = run(rough.argv())
    name = rough.run_dir.name
    if ended.returncode != 0:
        rough.wrong.append(f"{name}: exit {ended.returncode}, {ended.stderr.strip()[-200:]}")
    else:
        rough.wrong += [f"{name}: {text}" for text in differences(rough, calm_dir)]
    rough.runs += 1


def differences(rough: Rough, calm_dir: Path) -> list[str]:
    """In what a killed run differs from the undisturbed one."""
    found = []
    if decisions(rough.run_dir) != decisions(calm_dir):
        found.append("other decisions")
    if lacking := unfinished(rough.run_dir, N_IDEAS):
        found.append(lacking)
    paid, calm = bills(rough.run_dir), bills(calm_dir)
    rough.extra_requests += paid.requests - calm.requests
    rough.unsettled += paid.requests - paid.settled
    return found + wrong_bills(paid)


def wrong_bills(paid: Bills) -> list[str]:
    """Where the three accounts of what was paid disagree."""
    found = []
    if paid.spend_tokens != paid.replied_tokens:
        found.append(f"spend {paid.spend_tokens} tokens, replies {paid.replied_tokens}")
    if paid.settled < paid.replies or paid.ledger_tokens < paid.replied_tokens:
        found.append(f"ledger {paid.settled} bills of {paid.ledger_tokens} tokens, {paid.replies} replies")
    lost = paid.requests - paid.replies  # answered or under way when it was killed, and not yet on record
    if lost == 0 and paid.ledger_tokens != paid.replied_tokens:
        found.append(f"ledger {paid.ledger_tokens} tokens, replies {paid.replied_tokens}")
    return found


def kill_nine(folder: Path, seed: int = 30) -> Point:
    """Thirty random kills and some aimed ones, over as many runs as they take."""
    script = write_script(folder)
    began = time.monotonic()
    calm = run(search(script, folder, "calm"))
    if calm.returncode != 0 or (lacking := unfinished(folder / "calm", N_IDEAS)):
        return False, f"the undisturbed run: exit {calm.returncode}, {lacking if not calm.returncode else calm.stderr}"
    calm_s = time.monotonic() - began
    run(search(script, folder, "calm"))
    rough = Rough(folder, script, calm_s, time.monotonic() - began - calm_s, random.Random(seed))
    if twice := wrong_bills(bills(folder / "calm")):
        rough.wrong += twice
    random_kills(rough, folder / "calm")
    histogram = dict(rough.phases.most_common())
    aimed = aimed_kills(rough, folder / "calm")
    return not rough.wrong, text_of(rough, histogram, aimed)


def text_of(rough: Rough, histogram: dict[str, int], aimed: int) -> str:
    """The figures."""
    phases: Sequence[str] = [f"{name} {count}" for name, count in histogram.items()]
    what = f"{sum(histogram.values())} random kills ({', '.join(phases)}) and {aimed} aimed ones"
    verdict = "; ".join(rough.wrong) or "decisions as undisturbed, nothing evaluated twice or missing, spend once"
    return (
        f"{what} over {rough.runs} runs of {N_IDEAS} ideas ({rough.calm_s:.0f} s undisturbed): {verdict}; "
        f"{rough.extra_requests} requests repeated, {rough.unsettled} left at their worst case"
    )
