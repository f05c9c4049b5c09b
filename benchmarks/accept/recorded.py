"""The points that take half an hour and more: judged from the folder of a finished run where one is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toy_search import COMMAND, Point, decisions, environment, rows, unfinished

from xar_agent.agent.local_files import find
from xar_agent.envs.spec import load_env
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.confirm import Confirmation, read_confirmations
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import luck
from xar_agent.population.archive import read_candidates
from xar_agent.population.winners import choose

BENCHMARKS = Path(__file__).resolve().parents[1]
RUN_VARIABLE = "XAR_ACCEPT_RUN"
ENV, PRESET = "nanogpt", "cpu"
LIMIT_MIN = 60
N_NULL = 24
KNOBS = {"verb": "evolve", "env": ENV, "preset": PRESET, "policy": "knobs", "ideas": 12, "epochs": 2, "model": None}
PAPER = {"verb": "evolve", "env": ENV, "preset": PRESET, "policy": "paper", "model": "local/qwen2.5-coder-1.5b"}
PAPER_IDEAS = {"ideas": 2, "epochs": 2}
MAX_BETTER, MAX_CONFIRMED, MIN_NULL = 0.05, 0.01, 200


def given_runs(named: Sequence[str]) -> list[Path]:
    """Run folders of the command line, else those of the environment."""
    return [Path(name) for name in named or os.environ.get(RUN_VARIABLE, "").split(os.pathsep) if name]


def settings_of(run_dir: Path) -> dict[str, Any]:
    """What the run was begun with."""
    found: dict[str, Any] = json.loads((run_dir / "run.json").read_text())["settings"]
    return found


def newest(runs: Sequence[Path], wanted: dict[str, Any]) -> Path | None:
    """The newest of the given runs with these settings, of today's environment."""
    spec = load_env(ENV)
    now = {**wanted, "env_version": spec.version, "evaluator_version": spec.evaluator_version}
    fit = [run for run in runs if now.items() <= settings_of(run).items()]
    return max(fit, key=lambda run: json.loads((run / "run.json").read_text())["created_at"], default=None)


def evolved(folder: Path, wanted: dict[str, Any]) -> tuple[Path, str]:
    """Really run it; the run's folder, and what was wrong."""
    flags = [word for name in ("env", "preset", "policy", "ideas", "epochs", "model") if wanted.get(name)
             for word in (f"--{name}", str(wanted[name]))]  # fmt: skip
    argv = [*COMMAND, "evolve", *flags, "--runs-dir", str(folder), "--run", "r"]
    ended = subprocess.run(argv, env=environment(), stdout=subprocess.DEVNULL, check=False)
    return folder / "r", "" if ended.returncode == 0 else f"exit {ended.returncode}"


def knobs(folder: Path, runs: Sequence[Path]) -> Point:
    """A patch found without a model that the hidden split confirms, in less than an hour."""
    run_dir, wrong, how = newest(runs, KNOBS), "", "recorded"
    if run_dir is None:
        (run_dir, wrong), how = evolved(folder, KNOBS), "measured now"
    if wrong or (wrong := unfinished(run_dir, 24)):
        return False, f"{run_dir}: {wrong}"
    if not read_confirmations(run_dir):
        subprocess.run([*COMMAND, "confirm", str(run_dir)], env=environment(), stdout=subprocess.DEVNULL, check=False)
    with RunStore.open(run_dir, read_only=True) as store:
        best = choose(read_candidates(store)).candidates[0]
    looks = [look for look in read_confirmations(run_dir) if look.idea_id == best.idea.id]
    evolve_min, confirm_min = minutes(run_dir)
    paid = rows(run_dir, "SELECT coalesce(sum(input_tokens + output_tokens), 0) FROM spend")[0][0]
    passed = bool(looks) and looks[-1].verdict == "confirmed" and evolve_min + confirm_min < LIMIT_MIN and paid == 0
    mean = best.score.mean if best.score else None
    figure = f"{how}: {evolve_min:.0f} min + {confirm_min:.0f} min to confirm, {paid} tokens, best {mean:.4f} on val"
    return passed, f"{figure} ({best.idea.text}); {told(looks)}; beside it: {beside()}"


def minutes(run_dir: Path) -> tuple[float, float]:
    """Of the search, and of its looks at the hidden split."""
    used_s = json.loads((run_dir / "clock.json").read_text())["used_s"]
    begun = [json.loads(path.read_text())["begun_at"] for path in sorted((run_dir / "confirm").glob("[0-9]*.json"))]
    ends = rows(run_dir, "SELECT max(updated_at) FROM jobs WHERE json_extract(spec, '$.split') = 'hidden'")[0][0]
    return used_s / 60, (ends - min(begun)) / 60 if begun and ends else 0.0


def told(looks: Sequence[Confirmation]) -> str:
    """What confirming gave."""
    if not looks:
        return "its best one was not looked at: xar-agent confirm RUN"
    look = looks[-1]
    if look.gain is None or look.p_corrected is None:
        return f"hidden: {look.verdict}"
    interval = f"[{look.gain_lo:+.4f}, {look.gain_hi:+.4f}]"
    return f"hidden: {look.verdict}, gain {look.gain:+.4f} {interval}, corrected p = {look.p_corrected:.1e}"


def beside() -> str:
    """Other searches on record, and what luck alone gives."""
    spec = load_env(ENV)
    baseline = baseline_for(spec, PRESET)
    if baseline is None:
        return "no baseline"
    mean, bound = luck(N_NULL, baseline, spec.direction)
    words = [f"baseline {baseline.mean:.4f}, best of {N_NULL} null runs {mean:.4f} expected, 95 % bound {bound:.4f}"]
    path = BENCHMARKS / "search" / "results.json"
    if path.exists():
        found = json.loads(path.read_text())
        words[0] += f", {found['null']['best_measured']:.4f} measured"
        scores = [(row["policy"], row["best"]["score"]["mean"]) for row in found["searches"] if row["best"]]
        words += [f"{policy} {value:.4f}" for policy, value in scores]
    return ", ".join(words)


def paper(folder: Path, runs: Sequence[Path]) -> Point:
    """The paper's policy on the embedded model comes to the end of its plan."""
    run_dir, wrong, how = newest(runs, PAPER), "", "recorded"
    if run_dir is None:
        if find() is None:
            return True, "skipped: no model file here (xar-agent models fetch)"
        (run_dir, wrong), how = evolved(folder, {**PAPER, **PAPER_IDEAS}), "measured now"
    ended = len(decisions(run_dir, "result"))
    proposed = [idea for line in decisions(run_dir, "proposal") for idea in line["ideas"]]
    settings = settings_of(run_dir)
    epochs = settings["epochs"]
    wrong = wrong or unfinished(run_dir, epochs * settings["ideas"])
    valid = sum(line["mean"] is not None for line in decisions(run_dir, "result"))
    origins = sorted({idea["origin"] for idea in proposed})
    figure = (
        f"{how}: {ended} ideas in {epochs} epochs ({', '.join(origins)}), {valid} valid, {minutes(run_dir)[0]:.0f} min"
    )
    return not wrong and epochs > 1, f"{figure}{'; ' + wrong if wrong else ''}"


def no_ops(measure: bool) -> Point:
    """Searches in which there is nothing to find."""
    here = BENCHMARKS / "aa"
    if measure:
        subprocess.run([sys.executable, str(here / "measure.py")], check=True)
    path = here / "results.json"
    if not path.exists():
        return False, f"{path} is not there: --measure makes it"
    found = json.loads(path.read_text())
    totals = found["totals"]
    counted = found["runs"][: max(3, len({run["policy"] for run in found["runs"]}))]
    rows_ = [row for run in counted for row in run["candidates"] if row["value"] is not None]
    better = sum(row["verdict"] == "better" for row in rows_)
    confirmed = sum(look["verdict"] == "confirmed" for run in counted for look in run["looks"])
    agree = (len(rows_), better, confirmed) == (totals["scored"], totals["better"], totals["confirmed"])
    n = max(len(rows_), 1)
    passed = agree and len(rows_) >= MIN_NULL and better / n <= MAX_BETTER and confirmed / n <= MAX_CONFIRMED
    passed &= len(counted) >= 3 and all(run["confirmed"] == 0 for run in counted)
    figure = f"{len(counted)} searches, {len(rows_)} no-op candidates: {better} called better, {confirmed} confirmed"
    return passed, f"{figure} in {totals['looks']} looks{'' if agree else '; its totals say something else'}"
