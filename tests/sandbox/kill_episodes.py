"""SIGKILL of our own process at random moments of a sandbox's life: what is left five seconds later, and after a start.

python kill_episodes.py BACKEND COUNT     prints one line of figures; exit code 0 when nothing was left
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from xar_agent.sandbox import SandboxSpec, open_sandbox

LIFE = """
import sys, threading
from pathlib import Path
from xar_agent.sandbox import SandboxSpec, open_sandbox
backend, folder, mark = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
def say(stage): (folder / "stage").write_text(stage)
say("import")
for number in range(1000):
    say("start")
    box = open_sandbox(backend, SandboxSpec(workspace=folder / "workspace", name=mark))
    box.sweeps = False  # what earlier episodes left must go without this start
    box.start()
    say("spawn")
    stubborn = f"trap '' TERM INT HUP; setsid sleep {mark} & (setsid sleep {mark} &) ; sleep {mark}"
    box.spawn(["sh", "-c", stubborn], stderr_path=folder / "e")
    say("exec")
    box.exec(["sh", "-c", f"setsid sleep {mark} & yes | head -c 3000000; sleep 0.2"], timeout_s=0.3)
    say("write")
    box.write("f", bytes(100_000))
    box.snapshot()
    say("two at once")
    thread = threading.Thread(target=box.exec, args=(["sleep", mark],), kwargs={"timeout_s": 0.3})
    thread.start()
    thread.join()
    say("close")
    box.close()
"""
WAIT_S = 5.0
LONGEST_S = {"docker": 4.0}
"""Until the kill: about twice the life of one sandbox."""


@dataclass
class Tally:
    """What was found in all episodes."""

    stages: Counter[str] = field(default_factory=Counter)
    processes: int = 0
    slowest_s: float = 0.0
    containers: int = 0
    mounts: int = 0

    @property
    def clean(self) -> bool:
        """Nothing was left."""
        return self.processes == self.containers == self.mounts == 0

    def line(self, backend: str) -> str:
        """For a person."""
        stages = ", ".join(f"{name} {count}" for name, count in sorted(self.stages.items()))
        return (
            f"{backend}: {sum(self.stages.values())} kills ({stages}); processes alive after {WAIT_S:.0f} s: "
            f"{self.processes} (slowest end {self.slowest_s:.2f} s); after the next start: containers "
            f"{self.containers}, mounts {self.mounts}"
        )


def marked(mark: str) -> set[int]:
    """Live processes that show the mark in their words or surroundings, on either side of a namespace."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with suppress(OSError):
                shown = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if mark.encode() in shown and not dead:
                    found.add(int(folder.name))
    return found


def helpers(driver: int, known: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Processes below the driver, with their start times: supervisors, shims and commands, whatever they are called."""
    parents: dict[int, tuple[int, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                words = (folder / "stat").read_text().rpartition(")")[2].split()
                if words[0] not in "ZX":
                    parents[int(folder.name)] = (int(words[1]), int(words[19]))
    roots = {driver, *(pid for pid, start in known if parents.get(pid, (0, 0))[1] == start)}
    below = {pid for pid in parents if any(above in roots for above in ancestors(pid, parents))}
    return known | {(pid, parents[pid][1]) for pid in below}


def ancestors(pid: int, parents: dict[int, tuple[int, int]]) -> list[int]:
    """Parents up to the first process."""
    found = []
    while pid in parents and len(found) < 100:
        pid = parents[pid][0]
        found.append(pid)
    return found


def still(known: set[tuple[int, int]]) -> set[int]:
    """Those of the processes that are alive."""
    found = set()
    for pid, start in known:
        with suppress(OSError, IndexError):
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if words[0] not in "ZX" and int(words[19]) == start:
                found.add(pid)
    return found


def episode(backend: str, folder: Path, rng: random.Random, tally: Tally) -> tuple[str, Callable[[], int]]:
    """One life, ended somewhere: its mark, and what counts its processes once the time is over."""
    (folder / "workspace").mkdir(parents=True)
    mark = f"8{rng.randrange(10**6):06d}.{rng.randrange(10**9):09d}"
    argv = [sys.executable, "-c", LIFE, backend, str(folder), mark]
    driver = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    stop = time.monotonic() + rng.uniform(0.05, LONGEST_S.get(backend, 2.0))
    known: set[tuple[int, int]] = set()
    while time.monotonic() < stop:
        known = helpers(driver.pid, known)
        time.sleep(0.01)
    known = helpers(driver.pid, known)
    if driver.poll() is not None:
        assert driver.stderr is not None
        raise RuntimeError(f"the driver has ended: {driver.stderr.read().decode()[-500:]}")
    driver.kill()
    killed = time.monotonic()
    driver.communicate()

    def left() -> int:
        """Processes, and containers that run: their first ones do not know the mark."""
        return len(still(known) | marked(mark)) or len(containers([mark], "running") if backend == "docker" else [])

    def count() -> int:
        """An engine may be about to start something still when all seems gone: only the end of the time counts."""
        time.sleep(max(killed + WAIT_S - time.monotonic(), 0.0))
        return left()

    while left() and time.monotonic() < killed + WAIT_S:
        time.sleep(0.02)
    tally.slowest_s = max(tally.slowest_s, time.monotonic() - killed)
    stage = folder / "stage"
    tally.stages[(stage.read_text() if stage.exists() else "") or "import"] += 1
    return mark, count


def after_a_start(backend: str, folder: Path, marks: list[str], tally: Tally) -> None:
    """The next ordinary start of a sandbox clears up what needs one."""
    (folder / "next").mkdir(parents=True)
    with open_sandbox(backend, SandboxSpec(workspace=folder / "next")) as box:
        assert box.exec(["true"]).exit_code == 0
    tally.containers += len(containers(marks)) if backend == "docker" else 0
    mounts = Path("/proc/self/mountinfo").read_text()
    tally.mounts += sum(str(folder) in line or any(mark in line for mark in marks) for line in mounts.splitlines())


def containers(marks: list[str], status: str = "") -> list[str]:
    """Containers of these episodes, by what the engine itself says."""
    words = ["docker", "ps", "--all", "--no-trunc", "--format", "{{json .}}", "--filter", "label=xar-agent"]
    words += ["--filter", f"status={status}"] if status else []
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    labels = [json.loads(line)["Labels"] for line in listed]
    return [label for label in labels if any(mark in label for mark in marks)]


def run(backend: str, count: int, seed: int | None = None) -> Tally:
    """So many episodes, and one start at the end."""
    rng, tally = random.Random(seed), Tally()
    marks: list[str] = []
    counts: list[Future[int]] = []
    with tempfile.TemporaryDirectory(prefix="xar-kills-") as name, ThreadPoolExecutor(64) as pool:
        for number in range(count):
            mark, count_later = episode(backend, Path(name, str(number)), rng, tally)
            marks.append(mark)
            counts.append(pool.submit(count_later))
        tally.processes = sum(found.result() for found in counts)
        after_a_start(backend, Path(name, "after"), marks, tally)
    return tally


if __name__ == "__main__":
    result = run(sys.argv[1], int(sys.argv[2]))
    print(result.line(sys.argv[1]))
    sys.exit(not result.clean)
