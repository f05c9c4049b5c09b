"""The opposite of README's idea must be worse; a patch of a comment must have no effect and stay within noise."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from xar_agent.envs.spec import load_env

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import about_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package

COMMAND = str(Path(sys.executable).with_name("xar-agent"))
OPPOSITE = "Use batches of 128 sequences instead of 32."
SEED = 301


def run(argv: list[str], folder: Path) -> dict[str, object]:
    """One command's JSON, its verdict and fidelity first."""
    done = subprocess.run(
        [COMMAND, *argv, "--runs-dir", str(folder), "--json"], capture_output=True, text=True, check=False
    )
    result = json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr[-2000:]}
    kept = {k: result.get(k) for k in ("verdict", "fidelity", "evaluation", "baseline", "error")}
    return {"argv": [a.removeprefix(f"{HERE}/") for a in argv], "exit_code": done.returncode, **kept}


def main() -> None:
    """Measure and write effects.json beside this file."""
    env = load_env("nanogpt")
    about = {**about_now(), "env_version": env.version, "evaluator_version": env.evaluator_version}
    with tempfile.TemporaryDirectory() as scratch:
        opposite = run(["implement", OPPOSITE, "--seed", str(SEED)], Path(scratch))
        print(json.dumps(opposite), flush=True)
        comment = run(
            ["evaluate", str(HERE / "comment_only.diff"), "--env", "nanogpt", "--seed", str(SEED)], Path(scratch)
        )
        print(json.dumps(comment), flush=True)
    result = {"about": about, "opposite": opposite, "comment_only": comment}
    (HERE / "effects.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
