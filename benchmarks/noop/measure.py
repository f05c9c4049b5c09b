"""Judge 40 runs of a patch that changes nothing, each alone, and count what the decision rule calls better or worse."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from xar_agent.envs.spec import load_env
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import score

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import about_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package

COMMAND = Path(sys.executable).with_name("xar-agent")
FIRST_SEED = 2001
WORKERS = 2


def start_worker(n_seeds: int, first_seed: int, folder: Path) -> subprocess.Popen[bytes]:
    """One process that trains and scores ``n_seeds`` seeds after each other."""
    argv = [
        str(COMMAND),
        "evaluate",
        str(HERE / "comment_only.diff"),
        "--env",
        "nanogpt",
        "--preset",
        "cpu",
        "--seeds",
        str(n_seeds),
    ]
    argv += ["--seed", str(first_seed), "--runs-dir", str(folder), "--run", f"noop-{first_seed}", "--json"]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and write results.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--runs-dir", type=Path, help="keep the runs here; the same command goes on where it stopped")
    arguments = parser.parse_args()
    about, env = about_now(), load_env("nanogpt")
    baseline = baseline_for(env, "cpu")
    assert baseline is not None, "calibrate first: xar-agent envs calibrate nanogpt"
    each = arguments.seeds // WORKERS
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.runs_dir or Path(scratch)
        workers = [start_worker(each, FIRST_SEED + i * each, folder) for i in range(WORKERS)]
        for worker in workers:
            worker.wait()
        stores = [RunStore.open(folder, f"noop-{FIRST_SEED + i * each}", read_only=True) for i in range(WORKERS)]
        evaluations = [job.evaluation for store in stores for job in store.jobs() if job.evaluation]
    rows = []
    for e in sorted(evaluations, key=lambda e: e.seed):
        judged = score([e], baseline, env.direction)
        rows.append(
            {
                "seed": e.seed,
                "value": e.value,
                "valid": e.valid,
                "compute_ratio": e.compute_ratio,
                "verdict": judged.verdict,
            }
        )
    counts = Counter(str(row["verdict"]) for row in rows)
    result = {
        "about": about,
        "load_after": about_now()["load"],
        "env_version": env.version,
        "evaluator_version": env.evaluator_version,
        "baseline": {"mean": baseline.mean, "sd": baseline.sd, "n": baseline.n, "machine": baseline.machine},
        "verdicts": dict(counts),
        "runs": rows,
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(dict(counts))


if __name__ == "__main__":
    main()
