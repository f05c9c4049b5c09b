"""The unchanged repository's score as a distribution on this machine, and as a curve over compute."""

from __future__ import annotations

import hashlib
import math
import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from xar_agent.envs.spec import Baseline, CurvePoint, EnvSpec
from xar_agent.errors import EvaluationError, UserError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.data import cache_folder
from xar_agent.jobs.evaluation import evaluate
from xar_agent.jobs.limits import ends_itself
from xar_agent.jobs.machine import machine_for
from xar_agent.jobs.records import load
from xar_agent.jobs.training import TrainingPlan, train
from xar_agent.store import append_line, read_lines, to_json, write_json

Split = Literal["val", "hidden"]
Key = tuple[float, int]
"""Compute and seed of a run."""
CURVE_SHARE = 4
"""Points of the curve off 1x get a quarter of the seeds: their slope matters, not their spread."""
MIN_CURVE_SEEDS = 3
CALIBRATION_SEED = 1000
"""Calibration takes the seeds from here on, so that no candidate shares one by default."""
HIDDEN_CALIBRATION_SEED = 3000
"""The same for the hidden split: ``envs calibrate`` takes at most 1000 seeds, so the two never meet."""


@dataclass(frozen=True, slots=True)
class Run:
    """One baseline run that was measured."""

    compute: float
    seed: int
    value: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class CalibrationProgress:
    """One more value is there."""

    done: int
    total: int
    last: Run | None


def baseline_path(env: EnvSpec, preset: str, split: Split = "val", runtime: str = "") -> Path:
    """Where this machine's calibration of these very files is kept."""
    decisive = [env.version, env.at(preset).evaluator_version, machine_for(env.preset(preset), runtime)]
    version = hashlib.sha256(to_json(decisive).encode()).hexdigest()[:12]
    suffix = ".hidden.json" if split == "hidden" else ".json"
    return cache_folder() / "baselines" / f"{env.name}-{preset}-{version}{suffix}"


def baseline_for(env: EnvSpec, preset: str, split: Split = "val", runtime: str = "") -> Baseline | None:
    """This machine's own calibration, else the one that came with the environment, else None."""
    try:
        return Baseline.model_validate_json(baseline_path(env, preset, split, runtime).read_text())
    except (OSError, ValidationError):
        return env.shipped_baseline(preset, split)


def calibrate(
    bench: Bench,
    n: int,
    *,
    split: Split = "val",
    compute: Sequence[float] = (0.5, 1.0, 1.5),
    parallel: int = 1,
    on_progress: Callable[[CalibrationProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Baseline:
    """Measure the baseline: ``n`` seeds at 1x, a quarter of them (3 at least) at every other compute.

    Each value is saved as it comes: the same call goes on where an interrupted one stopped. The hidden split is
    measured at 1x alone where the other one has a baseline: its curve is that one's, moved by the difference of the
    means, since what more compute is worth depends on the text far less than the level does. Where the program ends
    training itself at a target there is no curve: compute is what is measured.

    Args:
        bench: what to measure.
        n: seeds at 1x, 2 at least.
        split: the text that scores it.
        compute: multiples of the preset's budget; 1 is always among them.
        parallel: runs at a time.
        on_progress: hears of each value; called from other threads.
        cancel: ends it when set.

    Raises:
        UserError: n is too small.
        EvaluationError: a run of the unchanged repository has no valid score.
        Interrupted: it was cancelled.
    """
    if n < 2:
        raise UserError("a baseline needs at least two seeds: one has no spread")
    model = baseline_for(bench.env, bench.preset_name, runtime=bench.runtime) if split == "hidden" else None
    only_once = model is not None or ends_itself(bench.preset)
    multiples = sorted({1.0} if only_once else {*compute, 1.0})
    wanted = [(c, seed) for c in multiples for seed in seeds_at(c, n, split)]
    path = baseline_path(bench.env, bench.preset_name, split, bench.runtime)
    ledger = Ledger(path.with_suffix(".values.jsonl"), wanted, on_progress)
    stop = cancel if cancel is not None else threading.Event()
    run_all(lambda key: ledger.add(measure(bench, *key, split=split, cancel=stop)), ledger.missing, parallel, stop)
    baseline = with_curve_of(model, summarise(bench, [ledger.runs[key] for key in wanted]))
    write_json(path, baseline.model_dump())
    return baseline


class Ledger:
    """The values of a calibration, each on disk as soon as it is known."""

    def __init__(
        self, path: Path, wanted: Sequence[Key], on_progress: Callable[[CalibrationProgress], None] | None
    ) -> None:
        self._path = path
        self._wanted = wanted
        self._on_progress = on_progress
        self._turn = threading.Lock()
        self.runs = read_runs(path)
        self.missing = [key for key in wanted if key not in self.runs]
        self._report(None)

    def add(self, run: Run) -> None:
        """Save one more.

        Raises:
            StoreError: it cannot be written.
        """
        with self._turn:
            append_line(self._path, asdict(run), fsync=True)
            self.runs[run.compute, run.seed] = run
            self._report(run)

    def _report(self, last: Run | None) -> None:
        if self._on_progress:
            n_done = sum(key in self.runs for key in self._wanted)
            self._on_progress(CalibrationProgress(n_done, len(self._wanted), last))


def seeds_at(compute: float, n: int, split: Split = "val") -> range:
    """The seeds of one point of the curve; the hidden split has others, so that it shares no run with the search's."""
    count = n if compute == 1 else min(n, max(MIN_CURVE_SEEDS, math.ceil(n / CURVE_SHARE)))
    first = HIDDEN_CALIBRATION_SEED if split == "hidden" else CALIBRATION_SEED
    return range(first, first + count)


def with_curve_of(model: Baseline | None, hidden: Baseline) -> Baseline:
    """The baseline with the other split's curve at its own level; its 1x point is as it was measured."""
    if model is None:
        return hidden
    by = hidden.mean - model.mean
    others = [point.model_copy(update={"mean": point.mean + by}) for point in model.curve if point.compute != 1]
    curve = sorted([*hidden.curve, *others], key=lambda point: point.compute)
    return hidden.model_copy(update={"curve": curve})


def run_all(one: Callable[[Key], None], keys: Sequence[Key], parallel: int, stop: threading.Event) -> None:
    """Call for every key, some at a time. After the first error no further one begins, and it is raised.

    Ctrl-C sets ``stop``: leaving the pool waits for what runs, which may take minutes otherwise.
    """
    with ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="calibrate") as pool:
        futures = [pool.submit(one, key) for key in keys]
        try:
            for future in futures:
                future.result()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def read_runs(path: Path) -> dict[Key, Run]:
    """Values of an earlier call."""
    if not path.exists():
        return {}
    runs = [load(Run, to_json(line)) for line in read_lines(path)]
    return {(run.compute, run.seed): run for run in runs}


def measure(bench: Bench, compute: float, seed: int, *, split: Split = "val", cancel: threading.Event | None) -> Run:
    """Train and score the unchanged repository once, its budget scaled.

    Raises:
        EvaluationError: it has no valid score.
        Interrupted: it was cancelled.
    """
    with bench.leased(cancel) as leased:
        return measure_with(leased, compute, seed, split, cancel)


def measure_with(bench: Bench, compute: float, seed: int, split: Split, cancel: threading.Event | None) -> Run:
    """The same, on a bench that has its devices."""
    budget = round(bench.preset.budget * compute)
    wall_s = bench.preset.wall_s * max(1.0, compute)
    plan = TrainingPlan.of(bench, bench.base_tree, seed, budget=budget, wall_s=wall_s)
    with bench.scratch_folder(f"calibrate-{seed}") as folder:
        training = train(bench, plan, folder / "train", log_path=folder / "log", cancel=cancel)
        if training.failure or training.checkpoint is None:
            reason = training.failure.reason if training.failure else "no checkpoint"
            raise EvaluationError(f"the unchanged repository does not train at seed {seed}: {reason}")
        place = folder / "evaluate"
        found = evaluate(
            bench, bench.base_tree, training.checkpoint, place, split=split, training=training, cancel=cancel
        )
    if found.failure or found.value is None:
        reason = found.failure.reason if found.failure else "no value"
        raise EvaluationError(f"the unchanged repository is not valid at seed {seed}: {reason}")
    return Run(compute, seed, found.value, training.cpu_s)


def summarise(bench: Bench, runs: Sequence[Run]) -> Baseline:
    """Mean and standard deviation over the seeds of each compute."""
    at_one = [run for run in runs if run.compute == 1]
    return Baseline(
        env_version=bench.env.version,
        evaluator_version=bench.env.evaluator_version,
        preset=bench.preset_name,
        machine=bench.machine,
        mean=statistics.fmean(run.value for run in at_one),
        sd=statistics.stdev(run.value for run in at_one),
        n=len(at_one),
        values={str(run.seed): run.value for run in at_one},
        cpu_s=statistics.median(run.cpu_s for run in at_one),
        curve=[curve_point(compute, runs) for compute in sorted({run.compute for run in runs})],
    )


def curve_point(compute: float, runs: Sequence[Run]) -> CurvePoint:
    """One compute's seeds."""
    values = [run.value for run in runs if run.compute == compute]
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return CurvePoint(compute=compute, mean=statistics.fmean(values), sd=sd, n=len(values))
