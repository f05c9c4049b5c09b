"""Take a baseline over to changed files when the change has not moved a score: some of its seeds are measured again.

A comment in ``env.toml`` or another check in the evaluator makes another version, and a baseline belongs to a version.
Where training is deterministic its scores need not all be measured again: if some come out the same to the last bit,
the training program, the data, the scored text and the loss are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pydantic import ValidationError

from xar_agent.envs.spec import Baseline, EnvSpec
from xar_agent.errors import EvaluationError, UserError
from xar_agent.jobs.baseline import CalibrationProgress, Key, Split, baseline_path, measure
from xar_agent.jobs.bench import Bench
from xar_agent.store import write_json

MIN_CHECKED = 2


def outdated_baseline(env: EnvSpec, preset: str, split: Split = "val") -> Baseline:
    """The baseline in the environment's folder, whatever files it was measured with.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = env.baseline_file(preset, split)
    if path is None:
        raise UserError(f"{env.name} has no baseline of preset {preset} to carry over", "leave --carry out")
    try:
        return Baseline.model_validate_json(path.read_text())
    except ValidationError as error:
        raise UserError(f"{path} is no baseline: {error.errors()[0]['msg']}", "leave --carry out") from error


def keys_to_check(old: Baseline, n: int) -> list[Key]:
    """``n`` of its seeds, evenly spread; the values of other computes are not kept by seed, so 1x it is."""
    seeds = sorted(map(int, old.values))
    n = min(max(n, MIN_CHECKED), len(seeds))
    return [(1.0, seeds[i * (len(seeds) - 1) // (n - 1)]) for i in range(n)]


def carry(
    bench: Bench,
    n: int,
    *,
    split: Split = "val",
    on_progress: Callable[[CalibrationProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Baseline:
    """The environment's old baseline as one of the files that are there now, and in the cache as such.

    Args:
        bench: what to measure.
        n: seeds to measure again, 2 at least.
        split: the text that scores them.
        on_progress: hears of each value.
        cancel: ends it when set.

    Raises:
        EvaluationError: a score has changed, by however little; nothing is written.
        UserError: there is no baseline, or it is another machine's.
        Interrupted: it was cancelled.
    """
    old = outdated_baseline(bench.env, bench.preset_name, split)
    here = bench.machine
    if old.machine != here:
        raise UserError(f"the baseline is of another machine ({old.machine})", "leave --carry out: measure it here")
    keys = keys_to_check(old, n)
    for done, (compute, seed) in enumerate(keys):
        run = measure(bench, compute, seed, split=split, cancel=cancel)
        if run.value != old.values[str(seed)]:
            was = f"{run.value!r} at seed {seed}, and was {old.values[str(seed)]!r}"
            raise EvaluationError(f"the score is {was}: the baseline has to be measured again, without --carry")
        if on_progress:
            on_progress(CalibrationProgress(done + 1, len(keys), run))
    origin = old.carried_from or f"{old.env_version}/{old.evaluator_version}"
    env_version, evaluator_version = bench.env.version, bench.env.evaluator_version
    update = {"env_version": env_version, "evaluator_version": evaluator_version, "carried_from": origin}
    carried = old.model_copy(update={**update, "rechecked": [seed for _, seed in keys]})
    write_json(baseline_path(bench.env, bench.preset_name, split, bench.runtime), carried.model_dump())
    return carried
