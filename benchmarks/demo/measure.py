"""Run README's idea in five wordings with five training seeds through the installed command, and record the results."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xar_agent.envs.spec import load_env

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import about_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package

COMMAND = Path(sys.executable).with_name("xar-agent")
FIRST_SEED = 101


def as_user(user: str | None) -> list[str]:
    """The prefix that runs a command as an ordinary user without any capability."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all"] if user else []


def run_idea(idea: str, seed: int, user: str | None, folder: Path) -> dict[str, object]:
    """One run; what it printed, and how long it took."""
    argv = [str(COMMAND), "implement", idea, "--seed", str(seed), "--runs-dir", str(folder), "--json"]
    started = time.monotonic()
    done = subprocess.run([*as_user(user), *argv], capture_output=True, text=True, cwd=folder, check=False)
    result = json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr[-2000:]}
    patch = Path(result["patch_path"]).read_text() if result.get("patch_path") else ""
    kept = {
        k: result.get(k)
        for k in ("verdict", "fidelity", "evaluation", "baseline", "model", "sandbox", "steps", "error")
    }
    return {
        "idea": idea,
        "seed": seed,
        "user": user or ("root" if os.geteuid() == 0 else "ordinary"),
        "exit_code": done.returncode,
        "wall_s": round(time.monotonic() - started, 1),
        **kept,
        "changed": [line for line in patch.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")],
    }


def main() -> None:
    """Measure and write results-USER.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--user", help="ordinary user to run as (needs root)")
    parser.add_argument("--cache", help="XAR_CACHE of that user")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    arguments = parser.parse_args()
    if arguments.cache:
        os.environ["XAR_CACHE"] = arguments.cache
    env = load_env("nanogpt")
    about = {**about_now(), "env_version": env.version, "evaluator_version": env.evaluator_version}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        for i, idea in enumerate(json.loads((HERE / "wordings.json").read_text())):
            folder = Path(scratch) / str(i)
            folder.mkdir()
            folder.chmod(0o777)
            rows.append(run_idea(idea, arguments.first_seed + i, arguments.user, folder))
            print(json.dumps(rows[-1]), flush=True)
    name = "results-root.json" if not arguments.user and os.geteuid() == 0 else "results-user.json"
    (HERE / name).write_text(
        json.dumps({"about": about, "load_after": about_now()["load"], "runs": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
