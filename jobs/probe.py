"""How much CPU time the baseline needs on this machine now: twenty of its steps, scaled to the whole budget.

Where the whole run takes seconds anyway it is made to its end: in some programs the first steps are unlike the others.
So it is where the data is a folder and nobody sees steps. Where seconds of a stream bound a run nothing is measured.
A slow laptop must not be punished and a fast server not rewarded, so the CPU cap of a run and its compute ratio are in
units of this reference. It is measured before the run with the run's own seed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from xar_agent.errors import Interrupted, SandboxLost
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.evaluation import tail_of
from xar_agent.jobs.feed import open_feed
from xar_agent.jobs.job_plan import counts_cpu
from xar_agent.jobs.outputs import CurveFollower, CurvePoint
from xar_agent.jobs.records import load
from xar_agent.jobs.training import TrainingPlan, plan_in, train, training_spec
from xar_agent.sandbox import open_sandbox
from xar_agent.sandbox.protocol import Process, Sandbox
from xar_agent.store import write_json

PROBE_STEPS = 20
CAP_FACTOR = 1.5
CAP_ALLOWANCE_S = 2.0
"""Start-up and saving vary by about this much whatever the budget is."""
WHOLE_RUN_CPU_S = 5.0
"""A baseline that is expected to need less than this is run to its end."""
TICK_S = 0.05
FRESH_S = 600.0
"""In a batch of hours the machine gets busier and calmer: identical work took 1.2 times the CPU seconds that a probe at
a calm start had promised, and was charged for it."""
MAKING_LOCKS = threading.Lock()
LOCKS: dict[str, threading.Lock] = {}
"""One for each file of this process's runs: a few dozen."""


@dataclass(frozen=True, slots=True)
class CpuReference:
    """The unchanged repository at one seed on this machine."""

    baseline_cpu_s: float
    """CPU seconds that the whole budget would take; infinite where the clock is another one and nobody counts."""
    first_losses: tuple[tuple[int, float | None], ...]
    """Step and loss of its curve over those first steps: the same seed and the same code give the same bits."""
    measured_at: float = 0.0
    """Seconds since 1970."""

    @property
    def cap_s(self) -> float:
        """CPU seconds that a candidate may use; infinite without a limit."""
        return CAP_FACTOR * self.baseline_cpu_s + CAP_ALLOWANCE_S

    @property
    def counted(self) -> bool:
        """CPU seconds bound the runs of this preset."""
        return math.isfinite(self.baseline_cpu_s)

    @property
    def limit_s(self) -> float | None:
        """The cap as a sandbox takes it: None is no limit."""
        return self.cap_s if self.counted else None


UNCOUNTED = CpuReference(math.inf, ())
"""Where the preset's clock is the only bound of a run."""


def cpu_reference(
    bench: Bench, seed: int, *, max_age_s: float | None = FRESH_S, cancel: threading.Event | None = None
) -> CpuReference:
    """The reference for one seed, measured again where the last one is old; ``UNCOUNTED`` where nothing needs it.

    Args:
        bench: what is measured with.
        seed: of the run that it is for.
        max_age_s: how old it may be; None takes one of any age.
        cancel: ends the measurement when set.

    Raises:
        Interrupted: it was cancelled.
        SandboxLost: the baseline itself does not train here; the message has its last line.
    """
    if not counts_cpu(bench.preset):
        return UNCOUNTED
    known = reference_path(bench, seed)
    with one_at_a_time(str(known)):
        found = kept_reference(bench, seed)
        if found is not None and is_fresh(found, max_age_s):
            return found
        with bench.scratch_folder("probe") as folder:
            measure = measure_whole if bench.preset.data == "folder" else measure_steps
            reference = measure(bench, seed, folder, cancel)
        write_json(known, asdict(reference))
        return reference


def kept_reference(bench: Bench, seed: int) -> CpuReference | None:
    """The last one that was measured in this run; None without one."""
    known = reference_path(bench, seed)
    return load(CpuReference, known.read_text()) if known.exists() else None


def reference_path(bench: Bench, seed: int) -> Path:
    """Where it is kept."""
    return bench.run_dir / "probe" / f"{bench.env.name}-{bench.env.version}-{bench.preset_name}-{seed}.json"


def is_fresh(reference: CpuReference, max_age_s: float | None) -> bool:
    """It was measured not long ago; also false where the clock has been set back."""
    return max_age_s is None or 0 <= time.time() - reference.measured_at <= max_age_s


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Jobs of one seed that begin together measure the baseline once."""
    with MAKING_LOCKS:
        lock = LOCKS.setdefault(name, threading.Lock())
    with lock:
        yield


def measure_whole(bench: Bench, seed: int, folder: Path, cancel: threading.Event | None) -> CpuReference:
    """Train the base tree to its end: nobody sees the steps of a program that reads its data from a folder."""
    log_path = folder / "probe.log"
    plan = TrainingPlan.of(bench, bench.base_tree, seed)
    training = train(bench, plan, folder / "train", log_path=log_path, cancel=cancel)
    if training.failure:
        raise SandboxLost(f"the unchanged repository does not train here: {training.failure.reason}")
    return CpuReference(training.cpu_s, first_losses(training.curve), time.time())


def first_losses(curve: Sequence[CurvePoint]) -> tuple[tuple[int, float | None], ...]:
    """Step and loss of the first steps of a curve."""
    return tuple((point.step, point.loss) for point in curve if point.step <= PROBE_STEPS)


def measure_steps(bench: Bench, seed: int, folder: Path, cancel: threading.Event | None) -> CpuReference:
    """Train the base tree for twenty steps of the full schedule, then end it."""
    plan = TrainingPlan.of(bench, bench.base_tree, seed)
    budget, wall_s = plan.budget, plan.wall_s
    workspace = bench.checkout(bench.base_tree, folder)
    samples: list[tuple[int, float]] = []
    started = threading.Event()
    enough = threading.Event()
    running: list[Process] = []

    def sample(answered: int) -> None:
        started.wait(wall_s)
        if answered in (0, PROBE_STEPS) and running:
            samples.append((feed.tokens, running[0].cpu_s()))
        if answered >= PROBE_STEPS and len(samples) == 2 and scaled(samples, budget) > WHOLE_RUN_CPU_S:
            enough.set()

    with open_feed(bench, folder, seed=seed, budget=budget, clock=plan.clock, on_request=sample) as feed:
        with open_sandbox(bench.backend, training_spec(bench, workspace, feed)) as sandbox:
            process = start(bench, sandbox, plan, folder / "probe.log")
            running.append(process)
            started.set()
            await_steps(process, enough, cancel)
            process.kill()
            result = process.wait()
        served = feed.tokens
    follower = CurveFollower(workspace, None)
    follower.finish()
    losses = first_losses(follower.points)
    if enough.is_set():
        return CpuReference(scaled(samples, budget), losses, time.time())
    if result.exit_code != 0 or not served:
        raise SandboxLost(f"the unchanged repository does not train here: {tail_of(folder / 'probe.log')[-300:]}")
    return CpuReference(result.cpu_s, losses, time.time())


def start(bench: Bench, sandbox: Sandbox, plan: TrainingPlan, log_path: Path) -> Process:
    """The baseline's training, with a thread that drops what it prints."""
    job = plan_in(sandbox, bench, plan)
    process = sandbox.spawn(job.command, env=job.environment, timeout_s=job.wall_s, stderr_path=log_path)
    threading.Thread(target=process.stdout.read, name="probe-output", daemon=True).start()
    return process


def await_steps(process: Process, enough: threading.Event, cancel: threading.Event | None) -> None:
    """Wait until the steps are done or the run has ended.

    Raises:
        Interrupted: it was cancelled.
    """
    while not enough.wait(TICK_S) and process.poll() is None:
        if cancel and cancel.is_set():
            raise Interrupted("cancelled while the baseline was probed")


def scaled(samples: list[tuple[int, float]], budget: int) -> float:
    """CPU seconds for the whole budget: the start-up, then the budget at the pace of the steps."""
    (tokens_0, cpu_0), (tokens_1, cpu_1) = samples
    return cpu_0 + (cpu_1 - cpu_0) / (tokens_1 - tokens_0) * (budget - tokens_0)
