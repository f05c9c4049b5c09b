"""What happens during a run, as lines and bars for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xar_agent.analysis.text import duration, one_line
from xar_agent.cli.live import Live, step_text

if TYPE_CHECKING:
    from xar_agent.cli.plan import Plan
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.jobs.types import SmokeReport
    from xar_agent.jobs.worker import JobEvent
    from xar_agent.sandbox.protocol import Patch, SandboxInfo

AGENT = "agent"
"""Key of the bar that moves while the model thinks."""


def show_setting(live: Live, plan: Plan) -> None:
    """Before anything takes time: which model, which environment, which sandbox, and what they can do."""
    from xar_agent.cli.plan import about_model

    if plan.model is not None:
        live.line("model", about_model(plan.model))
    show_measuring(live, plan.env, plan.preset, plan.sandbox)
    if plan.idea is not None:
        live.line("idea", one_line(plan.idea.text, 400), "bold")


def show_measuring(live: Live, env: EnvSpec, preset: str, sandbox: SandboxInfo) -> None:
    """What training and scoring are: environment, baseline, sandbox."""
    from xar_agent.cli.plan import about_sandbox
    from xar_agent.cli.table import baseline_text
    from xar_agent.jobs.baseline import baseline_for

    wanted = env.preset(preset)
    live.line("env", f"{env.name}, preset {preset}: {wanted.budget:,} {wanted.clock} of training")
    baseline = baseline_for(env, preset, runtime=sandbox.runtime)
    measure_it = f"none yet for this machine: xar-agent envs calibrate {env.name} --preset {preset}"
    known = f"{env.metric} {baseline_text(baseline)}" if baseline else measure_it
    live.line("baseline", known, "" if baseline else "yellow")
    live.line("sandbox", about_sandbox(sandbox), "" if sandbox.capabilities.secrets_hidden else "bold red")


def show_event(live: Live, event: object) -> None:
    """One event of a run; an event that is of no interest to a person shows nothing."""
    from xar_agent.agent.events import StepEvent
    from xar_agent.jobs.types import SmokeReport
    from xar_agent.jobs.worker import JobEvent
    from xar_agent.sandbox.protocol import Patch

    if isinstance(event, StepEvent):
        style = "" if event.ok else "yellow"
        text = step_text(event.tool, event.line, event.duration_s, width=live.console.width)
        live.line(f"step {event.step}", text, style)
        show_thinking(live, event.step + 1)
    elif isinstance(event, Patch):
        live.finish(AGENT)
        show_patch(live, event)
    elif isinstance(event, SmokeReport):
        show_smoke(live, event)
    elif isinstance(event, JobEvent):
        show_job(live, event)


def show_thinking(live: Live, step: int, note: str = "") -> None:
    """The model is asked; how long it takes nobody knows."""
    live.busy(AGENT, "agent", f"step {step}: the model is at work{note}")


def show_patch(live: Live, patch: Patch) -> None:
    """The patch in colour."""
    if not patch.diff.strip():
        live.line("patch", "empty: nothing was changed", "yellow")
        return
    live.patch(patch.diff, f"{', '.join(patch.files)}  +{patch.added} -{patch.removed}")


def show_smoke(live: Live, report: SmokeReport) -> None:
    """Whether the short training run on training text worked."""
    if report.failure is not None:
        place = f" ({report.failure.file}:{report.failure.line})" if report.failure.file else ""
        live.line("smoke", f"failed: {report.failure.kind}: {report.failure.reason}{place}", "red")
        return
    losses = ""
    if report.loss_first is not None and report.loss_last is not None:
        losses = f", loss {report.loss_first:.3f} to {report.loss_last:.3f}"
    live.line("smoke", f"passed in {duration(report.duration_s)}{losses}", "green")


def show_job(live: Live, event: JobEvent) -> None:
    """A full training run: a bar with its loss and the time left."""
    key, label = f"job {event.job_id}", "train"
    if event.kind == "done":
        live.finish(key)
    elif event.kind == "started":
        first = "baseline steps first, to time this machine" if event.clock == "tokens" else "begins"
        live.advance(key, label, 0, event.budget, f"seed {event.seed}: {first}")
    elif event.kind == "training_done":
        live.line(label, f"seed {event.seed}: {event.used:,.0f} of {event.budget:,} {event.clock} used")
    elif event.kind == "evaluating":
        live.advance(key, label, 1, 1, f"seed {event.seed}: the evaluator scores it")
    else:
        loss = "" if event.loss is None else f", loss {event.loss:.3f}"
        left = "" if event.eta_s is None else f", {duration(event.eta_s)} left"
        live.advance(key, label, round(event.used), event.budget, f"seed {event.seed}{loss}{left}")
