"""Ctrl-C at random moments: exit 130, no process is left, and the same command goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from toy_search import EPOCHS, Change, Point, environment, run, search, unfinished, write_script

TIMES = 6
STOP_S = 30.0
INTERRUPTED = (130, -signal.SIGINT)
"""A shell shows 130 for both; the second is Python's own, before the command has begun and after it has ended."""
IN_SANDBOX = 3
"""Processes under the command while one runs in a sandbox: its supervisor, the sandbox and the command itself."""
RUNAWAY = Change(
    "Runaway child", "What it starts should end with it.", "Start a sleeping process from train.py.", "train.py",
    "    model = NgramModel({}, ",
    "    import subprocess, time\n    if int(os.environ['XAR_BUDGET']) > 5000:\n"
    "        subprocess.Popen(['sleep', '317'], start_new_session=True)\n        time.sleep(3)\n"
    "    model = NgramModel({}, ",
)  # fmt: skip
"""Its full training leaves its session and waits a while, so that a Ctrl-C finds it."""
IDEAS = ((EPOCHS[0][0], RUNAWAY), EPOCHS[1][:2])
N_IDEAS = sum(map(len, IDEAS))


def below(pid: int) -> set[psutil.Process]:
    """Every process under one."""
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def alive(seen: set[psutil.Process], marker: str) -> list[str]:
    """Of those that were seen, and of all others that name the marker, which still run."""
    found = []
    for process in {*seen, *psutil.process_iter()}:
        try:
            told = process in seen or marker in " ".join(process.cmdline()) or marker in process.cwd()
            if told and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:80])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def interrupt(argv: list[str], marker: str, delay_s: float, *, at_work: bool) -> tuple[str, int]:
    """Send Ctrl-C after a while, or when a sandbox is next at work; what was wrong, and how many processes ran."""
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    seen: set[psutil.Process] = set()
    deadline = time.monotonic() + delay_s
    while child.poll() is None and (time.monotonic() < deadline or (at_work and len(below(child.pid)) < IN_SANDBOX)):
        seen |= below(child.pid)
        time.sleep(0.02)
    ended, n_running = child.poll() is not None, len(below(child.pid))
    seen |= below(child.pid)
    child.send_signal(signal.SIGINT)
    try:
        _, err = child.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return f"still running {STOP_S:.0f} s after Ctrl-C", n_running
    if left := alive(seen, marker):
        return f"left: {left}", n_running
    right = ended or (child.returncode in INTERRUPTED and "Traceback" not in err)
    return "" if right else f"exit {child.returncode}, {err.strip()[-200:]!r}", n_running


def ctrl_c(folder: Path, seed: int = 10) -> Point:
    """The point."""
    script, rng = write_script(folder, IDEAS), random.Random(seed)
    argv = search(script, folder, "r", "--ideas", "2", "--epochs", "2")
    wrong, counts = [], []
    for number in range(TIMES):
        delay_s = rng.uniform(0.0, 4.0)
        problem, n_running = interrupt(argv, str(folder), delay_s, at_work=number > 1)
        counts.append(n_running)
        wrong += [f"after {delay_s:.1f} s: {problem}"] if problem else []
    ended = run(argv)
    lacking = unfinished(folder / "r", N_IDEAS)
    if ended.returncode != 0 or lacking:
        wrong.append(f"not finished: exit {ended.returncode}, {lacking or ended.stderr.strip()[-200:]}")
    figure = f"{TIMES} Ctrl-C with {', '.join(map(str, counts))} processes under the command"
    return not wrong, f"{figure}: {'; '.join(wrong) or 'exit 130, none left, then the same command finished all ideas'}"
