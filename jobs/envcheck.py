"""Whether an environment keeps its promises: everything that ``envs check`` looks at, one finding a point.

The runs are ordinary jobs over an ordinary bench: what holds here holds for the runs of an agent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import CapabilityMissing, ServiceMissing
from xar_agent.jobs.baseline import baseline_for
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.envcheck_data import check_data
from xar_agent.jobs.envcheck_files import check_files, read_env
from xar_agent.jobs.envcheck_patches import check_refusals
from xar_agent.jobs.envcheck_runs import Examination, check_cheats, check_runs, check_smoke
from xar_agent.jobs.findings import Finding, failed, missing, ok, passes, warning
from xar_agent.jobs.smoke import smoke_budget

MIN_BASELINE_SEEDS = 20
"""The prediction interval's t quantile is within 7 % of the normal one from here on."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be looked at, and how closely."""

    folder: Path
    preset: str | None
    """None: the environment's first."""
    quick: bool
    """Train for the smoke test's budget alone."""
    all_cheats: bool
    """Every planted cheat, not the first alone."""


def examine(
    wish: Wish,
    open_bench: Callable[[EnvSpec, str], Bench],
    *,
    on_stage: Callable[[str], None],
    cancel: threading.Event,
) -> Iterator[Finding]:
    """Findings as they come; the runs are left out where what they stand on is not there.

    ``open_bench`` makes the bench of an environment and a preset and prepares the data, ``on_stage`` hears what is done
    next, ``cancel`` ends a run.

    Raises:
        UnknownName: there is no such preset.
        CapabilityMissing: no sandbox works here, or there is no GPU for a preset that needs one.
        Interrupted: it was cancelled.
    """
    on_stage("files")
    env, found = read_env(wish.folder)
    yield found
    if env is None:
        return
    preset = wish.preset or env.default_preset
    env.preset(preset)
    found_all = list(check_files(env, preset))
    yield from found_all
    if not all(map(passes, found_all)):
        yield failed("runs", "not tried: what is missing comes first", "mend the points above and check again")
        return
    try:
        on_stage("data")
        bench = open_bench(env, preset)
    except CapabilityMissing:
        raise
    except ServiceMissing as error:
        yield missing("data", error.message, error.hint)
        return
    yield from check_bench(wish, bench, on_stage, cancel)


def check_bench(
    wish: Wish, bench: Bench, on_stage: Callable[[str], None], cancel: threading.Event
) -> Iterator[Finding]:
    """What can be seen once there is data and a sandbox."""
    yield from check_data(bench)
    on_stage("refused patches")
    yield from check_refusals(bench)
    on_stage("smoke test")
    smoke = check_smoke(bench, cancel)
    yield smoke
    if not passes(smoke):
        yield failed("runs", "not tried: the smoke test comes first", "make the unchanged repository pass it")
        return
    examination = Examination(quick_bench(bench) if wish.quick else bench, on_stage, cancel)
    yield from check_runs(examination)
    if examination.known is not None:
        yield from check_cheats(examination, all_of_them=wish.all_cheats)
    yield check_baseline(bench)


def quick_bench(bench: Bench) -> Bench:
    """The same with the smoke test's budget: it shows what the checks do, not what the noise is."""
    name, preset = bench.preset_name, bench.preset
    presets = {**bench.env.file.preset, name: preset.model_copy(update={"budget": smoke_budget(preset)})}
    env = copy(bench.env)
    env.file = env.file.model_copy(update={"preset": presets})
    return replace(bench, env=env)


def check_baseline(bench: Bench) -> Finding:
    """The baseline's distribution, and over how many seeds; warnings only, since a new environment has none."""
    env, preset = bench.env, bench.preset_name
    measure = f"xar-agent envs calibrate {env.folder} --preset {preset} --seeds {MIN_BASELINE_SEEDS}"
    baseline = baseline_for(env, preset, runtime=bench.runtime)
    if baseline is None:
        named = env.preset(preset).baseline
        stale = named is not None and (env.folder / named).is_file()
        why = f"{named} was measured on other files than these" if stale else "none for these files"
        return warning("baseline", why, f"measure it: {measure}")
    text = f"{baseline.mean:.4f}, sd {baseline.sd:.4f}, over {baseline.n} seeds on {baseline.machine}"
    if baseline.n < MIN_BASELINE_SEEDS:
        return warning("baseline", text, f"fewer than {MIN_BASELINE_SEEDS} seeds; measure more: {measure}")
    if not baseline.shipped:
        return ok("baseline", f"{text}; measured here, not shipped")
    return ok("baseline", f"{text}; shipped")
