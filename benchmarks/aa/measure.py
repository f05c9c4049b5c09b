"""Searches in which nothing can be found: how often is a candidate called better, and how often confirmed?"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from machine import about_now, load_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package
from null_env import NULL_ENVS, make_null_env  # noqa: E402

if TYPE_CHECKING:
    from xar_agent.envs.spec import Baseline

FOLDER = Path(tempfile.gettempdir()) / "xar-aa"
BASELINE_SEEDS = 24
CONFIRM_SEEDS = 5
BUSY_LOAD = 3.0
MAX_FALSE_BETTER, MAX_FALSE_CONFIRMED = 0.05, 0.01


@dataclass(frozen=True, slots=True)
class Search:
    """One A/A run. Its seeds were written down before it began."""

    name: str
    """Of the run."""
    env: str
    policy: str
    seed: int
    """Of every training run of this search."""
    search_seed: int
    epochs: int
    ideas: int


COUNTED = (
    Search("rows-knobs", "toy-null-rows", "knobs", 101, 11, 2, 34),
    Search("rows-paper", "toy-null-rows", "paper", 202, 22, 2, 34),
    Search("rows-hill-climb", "toy-null-rows", "hill-climb", 303, 33, 2, 34),
)
"""Nearly all noise of a candidate is its own: these are what the shares are counted over."""
SHARED = Search("aa-knobs", "toy-null", "knobs", 101, 11, 2, 35)
"""Nearly all noise comes from the training seed, which all candidates of a search share."""


def lucky() -> Search:
    """The same at the calibration seed at which the unchanged program scored best: a search that luck carries."""
    values = baseline_of("toy-null", "val").values
    return Search("lucky-knobs", "toy-null", "knobs", int(min(values, key=lambda seed: values[seed])), 44, 1, 12)


def baseline_of(name: str, split: Literal["val", "hidden"]) -> Baseline:
    """As it was measured here."""
    from xar_agent.envs.spec import load_env
    from xar_agent.jobs.baseline import baseline_for

    env = load_env(name)
    found = baseline_for(env, env.default_preset, split)
    assert found is not None
    return found


def xar(*words: object) -> None:
    """Run one command of xar-agent to its end; what it prints is dropped, for the run has it.

    Raises:
        CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "xar_agent", *map(str, words), "--json"]
    print(*command[2:], flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def free_slots() -> int:
    """Training runs at a time: two on a machine with little else to do."""
    return 2 if load_now()[0] < BUSY_LOAD else 1


def run_search(search: Search) -> None:
    """One evolve run, then one look at all that it called better; at its best where that is none."""
    from xar_agent.jobs.looks import read_looks
    from xar_agent.jobs.runs import RunStore
    from xar_agent.population.archive import read_candidates

    runs = FOLDER / "runs"
    words = ["--env", search.env, "--policy", search.policy, "--ideas-from", "knobs", "--seed", search.seed]
    words += ["--search-seed", search.search_seed, "--epochs", search.epochs, "--ideas", search.ideas]
    parallel, begun = free_slots(), FOLDER / f"{search.name}.begun.json"
    if not begun.exists():
        begun.write_text(json.dumps({"date": about_now()["date"], "load": load_now(), "parallel": parallel}))
    xar("evolve", *words, "--parallel", parallel, "--run", search.name, "--runs-dir", runs)
    looks = read_looks(runs / search.name)
    if looks and all(look.finding for look in looks):
        return  # the same command would look a second time
    store = RunStore.open(runs, search.name, read_only=True)
    better = [one for one in read_candidates(store) if one.state == "better"]
    top = max(1, len(better))
    xar("confirm", search.name, "--top", top, "--seeds", CONFIRM_SEEDS, "--parallel", free_slots(), "--runs-dir", runs)


def wilson(k: int, n: int) -> list[float]:
    """95 % interval of a share by Wilson's score method."""
    z = 1.959964
    middle = (k / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    return [round(max(0.0, middle - half), 4), round(middle + half, 4)]


def result_of(search: Search) -> dict[str, Any]:
    """What one run came to, candidate by candidate and look by look."""
    from xar_agent.jobs.confirm import read_confirmations
    from xar_agent.jobs.runs import RunStore
    from xar_agent.population.archive import read_candidates

    store = RunStore.open(FOLDER / "runs", search.name, read_only=True)
    candidates = read_candidates(store)
    looks = read_confirmations(store.dir)
    rows = [row_of(one) for one in candidates]
    values = [row["value"] for row in rows if row["value"] is not None]
    baseline = baseline_of(search.env, "val")
    return {
        **asdict(search),
        "begun": json.loads((FOLDER / f"{search.name}.begun.json").read_text()),
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
        "verdicts_by_score_alone": dict(Counter(row["by_score_alone"] for row in rows)),
        "distinct_trees": len({one.jobs[0].spec.tree for one in candidates if one.jobs}),
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values),
        "mean_gain_in_baseline_sd": (baseline.mean - statistics.fmean(values)) / baseline.sd,
        "sd_in_baseline_sd": statistics.stdev(values) / baseline.sd,
        "looks": [look_row(look) for look in looks],
        "confirmed": sum(look.verdict == "confirmed" for look in looks),
        "candidates": rows,
    }


def row_of(one: Any) -> dict[str, Any]:
    """One candidate's figures."""
    from dataclasses import replace

    from xar_agent.jobs.scoring import score

    evaluation = one.evaluations[0] if one.evaluations else None
    alone = None
    if evaluation is not None:
        alone = score([replace(evaluation, compute_ratio=1.0)], one.baseline, evaluation.direction).verdict
    return {
        "idea_id": one.idea.id,
        "epoch": one.idea.epoch,
        "origin": one.idea.origin,
        "value": evaluation.value if evaluation else None,
        "compute_ratio": evaluation.compute_ratio if evaluation else None,
        "gain": one.gain,
        "fidelity": one.fidelity,
        "verdict": one.state,
        "by_score_alone": alone,
    }


def look_row(look: Any) -> dict[str, Any]:
    """One look's figures."""
    names = ("idea_id", "gain", "gain_lo", "gain_hi", "p", "p_corrected", "looks", "compute_ratio", "verdict")
    return {"seeds": list(look.seeds), "values": list(look.values), **{name: getattr(look, name) for name in names}}


def totals_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All runs together, against what was asked for."""
    rows = [row for run in runs for row in run["candidates"]]
    scored = [row for row in rows if row["value"] is not None]
    n = len(scored)
    better = sum(row["verdict"] == "better" for row in scored)
    confirmed = sum(run["confirmed"] for run in runs)
    ratios = sorted(row["compute_ratio"] for row in scored)
    return {
        "candidates": len(rows),
        "scored": n,
        "better": better,
        "better_share": round(better / n, 4),
        "better_interval": wilson(better, n),
        "looks": sum(len(run["looks"]) for run in runs),
        "confirmed": confirmed,
        "confirmed_share": round(confirmed / n, 4),
        "confirmed_interval": wilson(confirmed, n),
        "runs_with_a_confirmed_winner": sum(run["confirmed"] > 0 for run in runs),
        "compute_ratio": {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]},
        "passed": n >= 200 and better / n <= MAX_FALSE_BETTER and confirmed == 0,
    }


def main() -> None:
    """Measure, or go on with a measurement that was stopped, and write results.json beside this file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    FOLDER.mkdir(exist_ok=True)
    about = about_now()
    folders = [str(make_null_env(FOLDER, name)) for name in NULL_ENVS]
    os.environ |= {"XAR_ENVS": os.pathsep.join(folders), "XAR_CACHE": str(FOLDER / "cache")}
    for name in NULL_ENVS:
        for split in ("val", "hidden"):
            xar("envs", "calibrate", name, "--seeds", BASELINE_SEEDS, "--split", split)
    others = (SHARED, lucky())
    for search in (*COUNTED, *others):
        run_search(search)
    counted = [result_of(search) for search in COUNTED]
    result = {
        "about": about,
        "load_after": load_now(),
        "envs": {name: figures_of(name) for name in NULL_ENVS},
        "totals": totals_of(counted),
        "runs": [*counted, *map(result_of, others)],
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["totals"], indent=1))


def figures_of(name: str) -> dict[str, Any]:
    """Versions and baselines of a null environment."""
    from xar_agent.envs.spec import load_env

    env = load_env(name)
    found = {split: baseline_of(name, split) for split in ("val", "hidden")}
    kept = {"mean", "sd", "n", "cpu_s", "machine", "curve"}
    return {
        "env_version": env.version,
        "evaluator_version": env.evaluator_version,
        "baselines": {split: one.model_dump(mode="json", include=kept) for split, one in found.items()},
    }


if __name__ == "__main__":
    main()
