"""The acceptance list of the first milestone: one PASS or FAIL a point, with the figure.

make accept-1            points that take minutes are judged from the recorded measurements, if those fit today's files
make accept-1 FULL=1     measures them again first (about two hours on two cores)
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xar_agent import prompts
from xar_agent.agent.local_files import find
from xar_agent.envs.spec import EnvSpec, load_env

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
COMMAND = str(Path(sys.executable).with_name("xar-agent"))
KEY = "sk-planted-accept-0123456789abcdef"
START_CPU_S = 0.5
Point = tuple[bool, str]


def recorded(name: str, env: EnvSpec) -> dict[str, Any]:
    """A results file, refused when it was measured on other files than today's."""
    found: dict[str, Any] = json.loads((BENCHMARKS / name).read_text())
    about = {**found, **found.get("about", {})}
    if (about.get("env_version"), about.get("evaluator_version")) != (env.version, env.evaluator_version):
        raise ValueError(f"{name} was measured on other files: measure again")
    return found


def measure_all() -> None:
    """Everything that takes minutes, one after the other."""
    for script in ("demo/measure.py", "noop/measure.py", "noop/effects.py", "ideas20/run.py"):
        subprocess.run([sys.executable, str(BENCHMARKS / script)], cwd=ROOT, check=True)


def demo(env: EnvSpec) -> Point:
    """Five of five better, as an ordinary user and as root."""
    figures, passed = [], True
    for who in ("user", "root"):
        runs = recorded(f"demo/results-{who}.json", env)["runs"]
        better = [r for r in runs if r["exit_code"] == 0 and r["verdict"] == "better" and r["evaluation"]["valid"]]
        effects = [(r["baseline"]["mean"] - r["evaluation"]["value"]) / r["baseline"]["sd"] for r in better]
        passed &= len(runs) >= 5 and len(better) == len(runs) and min(effects, default=0) >= 4
        figures.append(f"{who}: {len(better)} of {len(runs)} better, effect {min(effects, default=0):.1f} sd at least")
    return passed, "; ".join(figures)


def opposite(env: EnvSpec) -> Point:
    """The opposite idea is worse."""
    found = recorded("noop/effects.json", env)["opposite"]
    return found["verdict"] == "worse", f"{found['argv'][1]} -> {found['verdict']}"


def comment_only(env: EnvSpec) -> Point:
    """A patch of a comment."""
    found = recorded("noop/effects.json", env)["comment_only"]
    seen = (found["fidelity"], found["verdict"])
    return seen == ("no_effect", "within_noise"), f"fidelity {seen[0]}, verdict {seen[1]}"


def noop(env: EnvSpec) -> Point:
    """At most 4 of 40 called better."""
    found = recorded("noop/results.json", env)
    better, n = found["verdicts"].get("better", 0), len(found["runs"])
    return n >= 40 and better <= 4, f"{better} of {n} no-op runs called better ({found['verdicts']})"


def ideas(env: EnvSpec) -> Point:
    """The embedded model on twenty stated ideas."""
    found = recorded("ideas20/results-ideas.json", env)
    if found["about"]["prompts"] != prompts.digests():
        raise ValueError("ideas20 was measured with other prompts: measure again")
    rows = found["rows"]
    right = sum(row["right"] for row in rows)
    values = [row["right"] for row in rows if row["class"] == "value"]
    passed = len(rows) == 20 and right >= 10 and len(values) == 8 and sum(values) >= 7
    return passed, f"{right} of {len(rows)} right, value changes {sum(values)} of {len(values)}"


def native_tool_calls(_env: EnvSpec) -> Point:
    """The stub server checks ids, order and roles over a 12-step episode."""
    return run_tests("tests/agent/test_loop.py", "twelve_step")


def full_disk(_env: EnvSpec) -> Point:
    """A full disk: one line, the contract's exit code, nothing half-written."""
    return run_tests("tests/cli/test_disk.py", "")


def run_tests(path: str, names: str) -> Point:
    """The named tests, and pytest's last line."""
    argv = [sys.executable, "-m", "pytest", "-q", path, "-k", names]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout.strip().splitlines()[-1]


def flipped_byte(_env: EnvSpec) -> Point:
    """One wrong byte in the embedded model's file, size and name unchanged."""
    model = find()
    if model is None:
        return False, "no model file here: xar-agent models fetch"
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / model.name
        shutil.copy(model, copy)
        with copy.open("r+b") as file:
            file.seek(copy.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        argv = [
            "implement",
            "x",
            "--env",
            "toy",
            "--model",
            "local/qwen2.5-coder-1.5b",
            "--runs-dir",
            f"{scratch}/runs",
        ]
        done = run(argv, {"XAR_LOCAL_MODEL": str(copy)})
        left = list(Path(scratch, "runs").glob("*"))
    return done.returncode == 3 and not left, f"exit {done.returncode}, {done.stderr.strip()[-200:]}"


def wrong_input(_env: EnvSpec) -> Point:
    """Each bad input: the contract's exit code and one line on stderr that says what to do."""
    with tempfile.TemporaryDirectory() as scratch:
        bad_model = Path(scratch) / "model.gguf"
        bad_model.write_bytes(b"GGUF" + bytes(1000))
        cases = {
            "unknown env": (["implement", "x", "--env", "nope"], {}, 2),
            "unknown preset": (["implement", "x", "--env", "toy", "--preset", "nope"], {}, 2),
            "unknown model": (["implement", "x", "--env", "toy", "--model", "local/nope"], {}, 2),
            "empty idea": (["implement", " ", "--env", "toy"], {}, 2),
            "damaged model": (
                ["implement", "x", "--env", "toy", "--model", "local/qwen2.5-coder-1.5b"],
                {"XAR_LOCAL_MODEL": str(bad_model)},
                3,
            ),
            "unreachable server": (
                ["implement", "x", "--env", "toy", "--model", "openai/m"],
                {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": KEY},
                3,
            ),
        }
        wrong = []
        for name, (argv, extra, expected) in cases.items():
            folder = Path(scratch) / name.replace(" ", "-")
            done = run([*argv, "--runs-dir", str(folder)], extra)
            lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
            told = len(lines) == 1 and "; " in lines[0] and "hint:" not in done.stderr
            if done.returncode != expected or not told or "Traceback" in done.stderr:
                wrong.append(f"{name}: exit {done.returncode}, {done.stderr[-200:]!r}")
    return not wrong, "; ".join(wrong) or f"{len(cases)} kinds, each with its exit code and one error line"


def planted_key(_env: EnvSpec) -> Point:
    """The key is in no file of a run."""
    script = BENCHMARKS / "accept" / "toy_better.json"
    with tempfile.TemporaryDirectory() as scratch:
        argv = [
            "implement",
            "Raise the learning rate to 3.0",
            "--env",
            "toy",
            "--model",
            f"scripted/{script}",
            "--runs-dir",
            scratch,
        ]
        done = run([*argv, "--json"], {"SOME_API_KEY": KEY, "HARMLESS": KEY})
        files = [p for p in Path(scratch).rglob("*") if p.is_file()]
        leaks = [p.name for p in files if KEY.encode() in p.read_bytes()]
    passed = done.returncode == 0 and not leaks and KEY not in done.stdout + done.stderr
    return (
        passed,
        f"exit {done.returncode}, {len(files)} files, leaks: {leaks or 'none'} (inside sandboxes: tests/sandbox)",
    )


def start_up(_env: EnvSpec) -> Point:
    """CPU seconds of the commands that must start at once."""
    figures = {}
    for argv in (["--help"], ["runs", "list"], ["replay", "--help"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(argv, {})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures[" ".join(argv)] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return max(figures.values()) < START_CPU_S, ", ".join(f"{k}: {v:.2f} CPU-s" for k, v in figures.items())


def run(argv: list[str], extra: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The installed command."""
    return subprocess.run([COMMAND, *argv], env={**os.environ, **extra}, capture_output=True, text=True, check=False)


POINTS: dict[str, Callable[[EnvSpec], Point]] = {
    "demo better in 5 of 5, user and root": demo,
    "the opposite idea is worse": opposite,
    "a comment-only patch has no effect": comment_only,
    "40 no-op runs, at most 4 better": noop,
    "20 ideas, at least 10 right, 7 of 8 values": ideas,
    "native tool calls against a checking server": native_tool_calls,
    "wrong input": wrong_input,
    "a flipped byte in the model": flipped_byte,
    "a full disk": full_disk,
    "planted key": planted_key,
    "start-up under 0.5 CPU-s": start_up,
}


def main() -> int:
    """Exit code 0 when every point passes."""
    if os.environ.get("FULL") == "1":
        measure_all()
    env = load_env("nanogpt")
    failed = 0
    for name, point in POINTS.items():
        try:
            passed, figure = point(env)
        except (OSError, ValueError, KeyError) as error:
            passed, figure = False, f"{type(error).__name__}: {error}"
        failed += not passed
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
