"""A disk that fills up in the middle of a search: exit 1 and a clear line; with room again the same command goes on.

As a program it does so on a small disk that only it sees: ``unshare --mount python disk.py FOLDER``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from toy_search import EPOCHS, Point, decisions, environment, run, search, unfinished, write_script

SIZE = "160m"
N_IDEAS = sum(map(len, EPOCHS))
MOMENTS = {
    "implementing": "scratch/implement-*",
    "smoke": "scratch/smoke-*",
    "training": "scratch/job-*/train",
    "evaluating": "scratch/job-*/evaluate",
    "between": "jobs/*/evaluation.json",
}
"""When it fills up, and what is there then that was not before."""
ROOM_BYTES = (0, 0, 6_000, 30_000, 200_000)
"""What is left free: with a little, some writes still succeed."""
DEADLINE_S = 120.0


def fill(place: Path, room: int) -> None:
    """Leave only so many bytes of the disk."""
    block = bytes(1 << 20)
    with (place / "ballast").open("ab", buffering=0) as file:
        while True:
            try:
                file.write(block[: 1 << 12] if shutil.disk_usage(place).free < len(block) else block)
            except OSError:
                break
        file.truncate(max(file.tell() - room, 0))


def full_at(pattern: str, room: int, argv: list[str], run_dir: Path, wait_s: float) -> tuple[int | None, str]:
    """Start the command, fill the disk at the moment; exit code and stderr, None when the moment never came."""
    known = set(run_dir.glob(pattern))
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
    while child.poll() is None and not set(run_dir.glob(pattern)) - known:
        time.sleep(0.001)
    came = child.poll() is None
    time.sleep(wait_s)
    if came:
        fill(run_dir.parent, room)
    try:
        _, err = child.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return -9, f"still running {DEADLINE_S:.0f} s later: {child.communicate()[1][-200:]}"
    (run_dir.parent / "ballast").unlink(missing_ok=True)
    return (child.returncode if came else None), err


def judged(code: int | None, err: str) -> str:
    """What is wrong with the end of a command whose disk was full; "" when nothing is."""
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    if code is None:
        return "the moment did not come"
    if code != 1 or len(errors) != 1 or "Traceback" in err:
        return f"exit {code}, {err.strip()[-300:]!r}"
    told = "full" in errors[0] or "No space left" in errors[0] or "disk" in errors[0]
    return "" if told and "; " in errors[0] else f"says {errors[0]!r}"


def on_small_disk(folder: Path) -> Point:
    """The point, where a small disk is mounted at the folder's ``disk``."""
    disk, rng = folder / "disk", random.Random(9)
    script = write_script(folder)
    calm = run(search(script, folder, "calm"))
    if calm.returncode != 0:
        return False, f"without a full disk: exit {calm.returncode}, {calm.stderr[-300:]}"
    argv = search(script, disk, "r")
    wrong, said = [], ""
    for (name, pattern), room in zip(MOMENTS.items(), rng.sample(ROOM_BYTES, len(ROOM_BYTES)), strict=True):
        code, err = full_at(pattern, room, argv, disk / "r", rng.uniform(0.0, 0.2))
        said = err.strip().splitlines()[-1] if err.strip() else said
        if problem := judged(code, err):
            wrong.append(f"{name} ({room} bytes left): {problem}")
    ended = run(argv)
    lacking = unfinished(disk / "r", N_IDEAS)
    if ended.returncode != 0 or lacking:
        wrong.append(f"with room again: exit {ended.returncode}, {lacking or ended.stderr.strip()[-300:]}")
    elif decisions(disk / "r") != decisions(folder / "calm"):
        wrong.append(f"other results than on a large disk: {first_difference(disk / 'r', folder / 'calm')}")
    figure = f"filled at {len(MOMENTS)} moments ({', '.join(MOMENTS)}); each time exit 1: {said!r}"
    return not wrong, "; ".join(wrong) or f"{figure}; then all {N_IDEAS} ideas as on a large disk"


def first_difference(one: Path, other: Path) -> str:
    """The first decision that differs."""
    pairs = zip(decisions(one), decisions(other), strict=False)
    return next((json.dumps(a)[:300] for a, b in pairs if a != b), "their number")


def full_disk(folder: Path) -> Point:
    """The point in a child with its own mounts; root only."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return True, "skipped: mounting a small disk needs root and unshare"
    (folder / "disk").mkdir()
    argv = ["unshare", "--mount", sys.executable, str(Path(__file__).resolve()), str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return False, f"exit {done.returncode}, {done.stderr.strip()[-300:]}"
    passed, figure = json.loads(done.stdout.splitlines()[-1])
    return bool(passed), str(figure)


def main() -> int:
    """Mount, try, tell as JSON; the mount goes with this process."""
    folder = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tiny", str(folder / "disk")], check=True)
    print(json.dumps(on_small_disk(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
