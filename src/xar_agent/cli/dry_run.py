"""``--dry-run``: what a command would do, what it needs and whether it is there; nothing is started or downloaded."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from xar_agent.errors import XarError

if TYPE_CHECKING:
    from xar_agent.cli.plan import Plan
    from xar_agent.envs.spec import EnvSpec, Preset
    from xar_agent.jobs.job_plan import JobPlan

ESTIMATE = "estimate.py"
"""Program of an environment that says what a training step needs; see docs/data.md."""
ESTIMATE_S = 600.0
"""Most of it is the import of torch, which takes a second, and minutes from a slow disk."""
GPU_BYTES = 80_000_000_000
OVERHEAD_BYTES = 3_000_000_000
"""Beside the tensors, assumed: CUDA's context, NCCL's buffers, the compiler's workspaces, unusable gaps."""
GPU_FLOPS = 989e12
"""bfloat16 without sparsity, of one H100 SXM as its maker states it."""
ASSUMED_UTILISATION = 0.4
"""Share of that which small GPT training codes reach."""


@dataclass(frozen=True, slots=True)
class DataLook:
    """What the cache has of a preset's data."""

    prepared: bool
    source: str
    folder: str | None
    corpus: str | None
    tokens: dict[str, int | None]
    val_tokens_wanted: int | None
    problem: str

    @property
    def line(self) -> str:
        """For a person."""
        if not self.prepared:
            return self.problem or f"not prepared: it will be made from {self.source}"
        counts = ", ".join(f"{name} {n:,}" for name, n in self.tokens.items() if n is not None)
        return "; ".join(filter(None, (f"{self.corpus}: {counts} tokens, prepared in {self.folder}", self.problem)))


@dataclass(frozen=True, slots=True)
class MemoryLook:
    """What one GPU needs, in bytes, and how fast it may be; of the unchanged repository."""

    known: bool
    reason: str
    figures: dict[str, int]
    tokens_per_s: float | None
    """All GPUs together, assumed."""

    @property
    def line(self) -> str:
        """For a person."""
        if not self.known:
            return f"not estimated: {self.reason}"
        gb = {name: f"{n / 1e9:.1f}" for name, n in self.figures.items()}
        fits = "fits" if self.figures["with_overhead_bytes"] <= GPU_BYTES else "DOES NOT FIT"
        return (
            f"{gb['with_overhead_bytes']} GB a GPU at most, uncompiled: {fits} in {GPU_BYTES / 1e9:.0f} GB. Weights "
            f"{gb['weights_bytes']}, gradients {gb['gradients_bytes']}, optimizer {gb['optimizer_bytes']}, "
            f"activations, logits and loss {gb['activations_bytes']}, the rest {OVERHEAD_BYTES / 1e9:.1f} (assumed)"
        )

    @property
    def model_line(self) -> str:
        """How large the model is and what it costs."""
        n, flops = self.figures["parameters"], self.figures["flops_per_token"]
        step = self.figures["tokens_per_step"]
        return f"{n / 1e6:.1f}M parameters, {flops / 1e9:.2f} GFLOP a token, {step:,} tokens a step"


def say_plan(plan: Plan, *, as_json: bool) -> None:
    """What would be done, for a person or a program."""
    from xar_agent.cli.terminal import facts_grid, print_json, result_console, show_parts
    from xar_agent.jobs.job_plan import job_plan
    from xar_agent.sandbox.gpus import devices

    preset = plan.env.preset(plan.preset)
    job = job_plan(plan.env, plan.preset, seed=plan.seeds[0] if plan.seeds else 1, python=plan.sandbox.python)
    data, memory = look_at_data(plan), look_at_memory(plan.env, preset)
    present = len(devices())
    if as_json:
        found = {
            "data": {**asdict(data), **repetition(preset, data, memory)},
            "memory": asdict(memory),
            "job": {**asdict(job), "command": list(job.command)},
            "gpus": {"needed": preset.gpus, "present": present},
            "missing": plan.missing or None,
        }
        idea = plan.idea.text if plan.idea else None
        print_json({"dry_run": True, **plan.record(), "idea": idea, "download": missing_download(plan), **found})
        return
    reads = reading(preset, data, memory)
    rows = [*about_work(plan, preset), ("data", data.line), *([("", reads)] if reads else [])]
    rows += [("memory", memory.line)] if preset.gpus else []
    rows += [("", memory.model_line)] if memory.known else []
    rows += about_job(job)
    rows += [("gpus", f"needs {preset.gpus}, this machine has {present}")] if preset.gpus else []
    rows += [("missing", plan.missing)] if plan.missing else []
    show_parts(result_console(), facts_grid(rows), "dry run: nothing was started")


def about_work(plan: Plan, preset: Preset) -> list[tuple[str, str]]:
    """Idea, model, environment, sandbox and budget."""
    from xar_agent.cli.plan import about_model, about_sandbox
    from xar_agent.cli.table import shown

    seeds = ", ".join(map(str, plan.seeds))
    return [
        ("idea", plan.idea.text if plan.idea else "a given patch"),
        ("model", about_model(plan.model) if plan.model else "none"),
        ("download", missing_download(plan) or "nothing for the model"),
        ("env", f"{plan.env.name}, preset {plan.preset} ({plan.env.folder})"),
        ("agent", f"edits {', '.join(plan.env.file.editable)} in at most {plan.settings.max_steps} steps"),
        ("sandbox", about_sandbox(plan.sandbox)),
        ("training", f"{preset.budget:,} {preset.clock}, seeds {seeds}" if plan.submit else "none"),
        ("run", f"a new folder in {shown(plan.settings.runs_dir)}"),
    ]


def about_job(job: JobPlan) -> list[tuple[str, str]]:
    """The exact command and what it may use."""
    told = " ".join(f"{name}={value}" for name, value in job.environment.items() if name.startswith("XAR_"))
    limits = job.limits
    wall = f"{job.wall_s:,.0f} s of wall time" + (
        f", {job.overtime_s:.0f} s after its budget" if job.overtime_s else ""
    )
    return [
        ("command", shlex.join(job.command)),
        ("", f"with {told}, in {job.workspace}"),
        ("limits", f"{limits.memory_mib:,} MiB of memory, {limits.cpus:g} CPUs, {limits.processes} processes, {wall}"),
    ]


def look_at_data(plan: Plan) -> DataLook:
    """Whether the data is there and large enough; no file is read through."""
    from xar_agent.cli.table import shown
    from xar_agent.jobs.data import find_data, prepare_program

    wanted = plan.env.preset(plan.preset).settings.get("val_tokens")
    wanted = wanted if isinstance(wanted, int) else None
    source = plan.settings.data or f"what {prepare_program(plan.env, plan.preset).name} downloads"
    try:
        found = find_data(plan.env, plan.preset, source=plan.settings.data)
    except XarError as error:
        return DataLook(False, source, None, None, {}, wanted, error.message)
    if found is None:
        return DataLook(False, source, None, None, {}, wanted, "")
    tokens = {name: found.n_tokens(name) for name in ("train", "val", "hidden")}
    short = [name for name in ("val", "hidden") if wanted and (tokens[name] or 0) < wanted]
    problem = f"TOO FEW tokens in {' and '.join(short)}: {wanted:,} are scored" if short else ""
    return DataLook(True, source, str(shown(found.folder)), found.corpus, tokens, wanted, problem)


def look_at_memory(env: EnvSpec, preset: Preset) -> MemoryLook:
    """What the unchanged repository needs with this preset's constants: our own code, run with this Python."""
    from xar_agent.envs.knobs import with_constants

    program = env.folder / ESTIMATE
    if not preset.gpus or not program.is_file():
        return MemoryLook(False, "only for presets with GPUs whose environment has an estimate.py", {}, None)
    if find_spec("torch") is None:
        return MemoryLook(False, "this Python has no torch; see: xar-agent doctor", {}, None)
    sources = {path.name: path.read_text(encoding="utf-8") for path in env.repo.glob("*.py")}
    files = {name: with_constants(text, preset.constants.get(name, {}), file=name) for name, text in sources.items()}
    request = json.dumps({"files": files, "gpus": preset.gpus, "bf16": True})
    argv = [sys.executable, "-B", "-P", str(program)]
    try:
        done = subprocess.run(argv, input=request, capture_output=True, text=True, timeout=ESTIMATE_S, check=True)
        figures = {name: int(figure) for name, figure in json.loads(done.stdout).items()}
    except subprocess.CalledProcessError as error:
        return MemoryLook(False, (error.stderr.strip().splitlines() or [str(error)])[-1], {}, None)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return MemoryLook(False, f"{ESTIMATE} gave no answer: {error}", {}, None)
    figures["with_overhead_bytes"] = figures["peak_bytes"] + OVERHEAD_BYTES
    rate = preset.gpus * GPU_FLOPS * ASSUMED_UTILISATION / figures["flops_per_token"]
    return MemoryLook(True, "", figures, rate)


def repetition(preset: Preset, data: DataLook, memory: MemoryLook) -> dict[str, float | None]:
    """How many tokens the budget takes, and how often that is the whole training text."""
    taken: float | None = preset.budget if preset.clock == "tokens" else None
    if preset.clock == "seconds" and memory.tokens_per_s:
        taken = preset.budget * memory.tokens_per_s
    there = data.tokens.get("train")
    return {"budget_tokens": taken, "passes": taken / there if taken and there else None}


def reading(preset: Preset, data: DataLook, memory: MemoryLook) -> str:
    """Whether the training text is enough for the budget; empty when nothing is known."""
    found = repetition(preset, data, memory)
    taken, passes = found["budget_tokens"], found["passes"]
    if not taken:
        return ""
    rate = ""
    if memory.tokens_per_s:
        rate = f" at {memory.tokens_per_s / 1e6:.1f}M tokens a second (assumed: {ASSUMED_UTILISATION:.0%} of an H100)"
    if passes is None:
        return f"the budget takes {taken / 1e6:,.1f}M tokens{rate}"
    enough = "less than once" if passes < 1 else f"{passes:.1f} TIMES: more training files would avoid that"
    return f"the budget takes {taken / 1e6:,.1f}M tokens{rate}: the training text {enough}"


def missing_download(plan: Plan) -> str:
    """What would have to be downloaded for the model, with its size; empty when it is there."""
    from xar_agent.agent.local_files import KNOWN, find
    from xar_agent.analysis.text import size

    if plan.model is None or plan.model.kind != "local":
        return ""
    name = plan.model.name.removeprefix("local/")
    return "" if find(name) else f"{name}: {size(KNOWN[name].n_bytes)}"
