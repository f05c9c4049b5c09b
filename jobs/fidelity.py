"""Does a patch change what the program does? A comment does not, and must not be called an improvement by chance."""

from __future__ import annotations

import ast
import threading
from collections.abc import Sequence
from pathlib import Path

from xar_agent.jobs.bench import Bench
from xar_agent.jobs.job_plan import counts_cpu
from xar_agent.jobs.outputs import CurvePoint, read_curve
from xar_agent.jobs.probe import cpu_reference, first_losses, kept_reference, one_at_a_time
from xar_agent.jobs.records import load
from xar_agent.jobs.types import Evaluation, Fidelity, Job, JobSpec
from xar_agent.jobs.worker import CURVE, RESULT, run_job
from xar_agent.sandbox import tree as trees
from xar_agent.sandbox.protocol import Patch


def fidelity(
    bench: Bench,
    tree: str,
    jobs: Sequence[Job],
    *,
    jobs_dir: Path,
    cancel: threading.Event | None = None,
) -> Fidelity:
    """Whether a tree's patch has any effect.

    "no_effect": its files differ from the base in comments and layout only, or the same seed gives the same curve and
    the same score as the base. The base is trained with that seed only when the first steps are the same. Where the
    same program does not give the same bits each time, on GPUs or by a clock of seconds, a difference says nothing.

    Args:
        bench: what was measured with.
        tree: the candidate's.
        jobs: its jobs.
        jobs_dir: folder of the run's jobs, for their curves.
        cancel: ends a run of the base when set.

    Raises:
        Interrupted: it was cancelled.
        SandboxError, EvaluationError: the house failed.
    """
    if same_program(bench, tree):
        return "no_effect"
    done = next((job for job in jobs if job.evaluation and job.evaluation.value is not None), None)
    if done is None or done.evaluation is None:
        return "unknown"
    preset = bench.preset
    if preset.gpus and preset.clock == "seconds":
        return "unknown"
    of_difference: Fidelity = "unknown" if preset.gpus or preset.clock == "seconds" else "effect"
    curve = read_curve(jobs_dir / done.id / CURVE)
    if not (first := first_losses(curve)):
        return "unknown"
    if counts_cpu(preset) and first != (reference := base_losses(bench, done.spec.seed, cancel)):
        return of_difference if reference else "unknown"
    base = same_seed_base(bench, done.spec, cancel)
    if base is None:
        return "unknown"
    same = base[0].value == done.evaluation.value and base[1] == curve
    return "no_effect" if same else of_difference


def base_losses(bench: Bench, seed: int, cancel: threading.Event | None) -> tuple[tuple[int, float | None], ...]:
    """Of the base at this seed: known, where a job has been trained with it in this run."""
    kept = kept_reference(bench, seed)
    if kept is None:
        with bench.leased(cancel) as leased:
            kept = cpu_reference(leased, seed, max_age_s=None, cancel=cancel)
    return kept.first_losses


def same_program(bench: Bench, tree: str) -> bool:
    """Whether every changed file parses to the same syntax tree as before."""
    changed = bench.diff(tree).files
    if not changed:
        return True
    with bench.scratch_folder("compare") as folder:
        before, after = folder / "before", folder / "after"
        trees.checkout(bench.git_store, bench.base_tree, before)
        trees.checkout(bench.git_store, tree, after)
        return all(same_syntax(before / name, after / name) for name in changed)


def same_syntax(before: Path, after: Path) -> bool:
    """Whether two Python files differ in comments and layout only."""
    if before.suffix != ".py" or not before.is_file() or not after.is_file():
        return False
    try:
        return ast.dump(ast.parse(before.read_bytes())) == ast.dump(ast.parse(after.read_bytes()))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def same_seed_base(
    bench: Bench, spec: JobSpec, cancel: threading.Event | None
) -> tuple[Evaluation, tuple[CurvePoint, ...]] | None:
    """Score and curve of the unchanged repository at the same seed, measured once in a run; None without a score."""
    folder = bench.run_dir / "baseline" / f"{bench.preset_name}-{spec.split}-{spec.seed}"
    with one_at_a_time(str(folder)):
        if not (folder / RESULT).exists():
            nothing = Patch(bench.base_tree, "", (), 0, 0, "")
            base = JobSpec(spec.run, "baseline", spec.env, spec.preset, spec.seed, nothing, bench.base_tree, spec.split)
            with bench.leased(cancel) as leased:
                outcome = run_job(leased, base, folder, cancel=cancel)
            if outcome.evaluation is None:
                return None
    return load(Evaluation, (folder / RESULT).read_text()), read_curve(folder / CURVE)
