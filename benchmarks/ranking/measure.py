"""Seven hand-made patches whose order is known: does the harness put them in that order with three seeds?

    python benchmarks/ranking/measure.py train --work DIR [--seeds 12]     # resumes; about 70 CPU seconds a run
    python benchmarks/ranking/measure.py score --work DIR                  # by the evaluator as it is now: results.json
    python benchmarks/ranking/measure.py judge                             # the table; exit 1 if the order is wrong

Training and scoring are the product's own (``jobs.training.train``, ``jobs.evaluation.evaluate``), each run from a
clean checkout in a sandbox. Checkpoints are kept in DIR, so that a changed evaluator can score them again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xar_agent.envs.spec import load_env
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.evaluation import evaluate
from xar_agent.jobs.training import TrainingPlan, train
from xar_agent.sandbox.tree import apply_patch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
from judge import UNTOUCHED, judge, write_table  # noqa: E402  - the benchmarks are scripts, not a package
from machine import about_now  # noqa: E402

ENV, PRESET = "nanogpt", "cpu"
FIRST_SEED = 5000
"""Seeds that neither a calibration nor a user's first runs have."""
RESULTS = HERE / "results.json"


def trees(bench: Bench) -> dict[str, str]:
    """Tree of each patch by its name, the untouched code included (its CPU time is the unit of compute)."""
    found = {UNTOUCHED: bench.base_tree}
    for path in sorted((HERE / "patches").glob("*.diff")):
        found[path.stem] = apply_patch(bench.git_store, bench.base_tree, path.read_text())
        bench.diff(found[path.stem])
    return found


@contextmanager
def opened() -> Iterator[Bench]:
    """The bench over a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ranking-") as folder:
        yield open_bench(load_env(ENV), PRESET, "auto", Path(folder))


def train_one(bench: Bench, tree: str, seed: int, kept: Path) -> None:
    """One run whose checkpoint and record lie in ``kept`` when it has ended well."""
    with bench.scratch_folder("ranking") as folder:
        preset = bench.preset
        plan = TrainingPlan(tree, seed, preset.budget, 4 * preset.wall_s, None)
        run = train(bench, plan, folder / "train", log_path=folder / "log")
        if run.failure or run.checkpoint is None:
            raise SystemExit(f"{kept.name}: {run.failure}")
        shutil.copytree(run.checkpoint, kept / "checkpoint")
    record = {"seed": seed, "cpu_s": run.cpu_s, "tokens": run.tokens, "checkpoint_sha256": run.checkpoint_sha256}
    (kept / "run.json").write_text(json.dumps(record))


def train_all(work: Path, seeds: range) -> None:
    """Every patch at every seed; one seed of all patches before the next."""
    with opened() as bench:
        for seed in seeds:
            for name, tree in trees(bench).items():
                kept = work / name / str(seed)
                if (kept / "run.json").exists():
                    continue
                shutil.rmtree(kept, ignore_errors=True)
                kept.mkdir(parents=True)
                train_one(bench, tree, seed, kept)
                print(f"{name} {seed}", flush=True)


def losses_of(bench: Bench, tree: str, kept: list[Path]) -> list[float]:
    """Loss of each checkpoint, without audits."""
    with bench.scratch_folder("losses") as folder:
        checkout = bench.checkout(tree, folder)
        command = [sys.executable, HERE / "losses.py", checkout, bench.data.split("val")]
        paths = [path / "checkpoint" / "checkpoint.pt" for path in kept]
        done = subprocess.run([*map(str, [*command, *paths])], capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout)
    return found


def audited(bench: Bench, tree: str, kept: Path) -> dict[str, Any]:
    """The whole evaluation of one checkpoint: each check in fresh sandboxes."""
    with bench.scratch_folder("ranking") as folder:
        found = evaluate(bench, tree, kept / "checkpoint", folder / "evaluate", split="val")
    return {"value": found.value, "valid": found.valid, "reason": found.failure.reason if found.failure else None}


def score_patch(bench: Bench, name: str, tree: str, kept: list[Path], n_audited: int) -> list[dict[str, Any]]:
    """Every checkpoint's loss; the first ones are audited, and must have the same loss to the last bit.

    Raises:
        ValueError: they have not.
    """
    runs = [json.loads((path / "run.json").read_text()) for path in kept]
    if name == UNTOUCHED:  # its CPU time is all that is wanted
        return runs
    for number, (run, path, loss) in enumerate(zip(runs, kept, losses_of(bench, tree, kept), strict=True)):
        run |= {"value": loss, "valid": True, "reason": None, "audited": number < n_audited}
        if run["audited"]:
            run |= (said := audited(bench, tree, path))
            if said["valid"] and said["value"] != loss:
                raise ValueError(f"{name} at seed {run['seed']}: the evaluator found {said['value']!r}, not {loss!r}")
        print(name, run["seed"], run["value"], run["reason"] or "", flush=True)
    return runs


def score_all(work: Path, n_audited: int) -> dict[str, Any]:
    """Score every kept checkpoint with the evaluator as it is now."""
    patches: dict[str, Any] = {}
    with opened() as bench:
        for name, tree in trees(bench).items():
            kept = sorted(path.parent for path in (work / name).glob("*/run.json"))
            patch = HERE / "patches" / f"{name}.diff"
            digest = hashlib.sha256(patch.read_bytes()).hexdigest() if patch.exists() else None
            patches[name] = {"patch_sha256": digest, "runs": score_patch(bench, name, tree, kept, n_audited)}
        versions = {"env_version": bench.env.version, "evaluator_version": bench.env.evaluator_version}
    return {**about_now(), **versions, "preset": PRESET, "patches": patches}


def main() -> int:
    """Exit code 1 when the set does not come out right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "score", "judge"])
    parser.add_argument("--work", type=Path, help="folder of the checkpoints")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="first seed; two processes can share the work")
    parser.add_argument("--audited", type=int, default=1, help="seeds of each patch whose evaluation is made in full")
    given = parser.parse_args()
    if given.stage != "judge" and given.work is None:
        parser.error("--work is missing")
    if given.stage == "train":
        train_all(given.work, range(given.first, given.first + given.seeds))
        return 0
    if given.stage == "score":
        RESULTS.write_text(json.dumps(score_all(given.work, given.audited), indent=1) + "\n")
    judged = judge(json.loads(RESULTS.read_text()))
    write_table(judged, HERE / "README.md")
    n = min(row.n for row in judged.rows)
    print(f"{n} seeds a patch; right: {judged.measured_right:.1%}, by the rule of before: {judged.declared_right:.1%}")
    return 0 if judged.right else 1


if __name__ == "__main__":
    sys.exit(main())
