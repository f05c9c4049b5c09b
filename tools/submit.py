"""smoke_test and submit_run: the way from an edited tree to a training run."""

from __future__ import annotations

import json

from xar_agent.errors import PatchRefused
from xar_agent.jobs.records import dump
from xar_agent.jobs.smoke import run_smoke
from xar_agent.jobs.types import SmokeReport
from xar_agent.tools.observation import Observation, refusal
from xar_agent.tools.workspace import Workspace

MAX_LOG_CHARS = 6_000


def smoke_test(workspace: Workspace) -> Observation:
    """A few training steps of the tree as it is now, in a fresh sandbox, loaded and scored through the contract."""
    workspace.commands += 1
    log = workspace.logs / f"smoke-{workspace.commands}.log"
    try:
        tree = workspace.tree()
    except PatchRefused as error:
        return refusal("INTEGRITY", error.message, error.hint)
    report = run_smoke(workspace.bench, tree, cancel=workspace.cancel, log_path=log)
    workspace.smoke = report
    record = {
        "smoke": dump(report),
        "tree": report.tree,
        "duration_s": round(report.duration_s, 3),
        "cpu_s": round(report.cpu_s, 3),
    }
    if report.passed:
        loss = {"loss_first": report.loss_first, "loss_last": report.loss_last}
        text = json.dumps({"passed": True, **loss, "next": "submit_run" if workspace.submits else ""})
        ends = not workspace.submits and bool(workspace.patch().diff)
        return Observation(text, summary=passed_line(report), record={**record, **loss}, ends=ends)
    return Observation(failed_text(report), failed_class(report), failed_line(report), record=record)


def passed_line(report: SmokeReport) -> str:
    """One line for a person."""
    if report.loss_first is None or report.loss_last is None:
        return "passed"
    return f"passed, loss {report.loss_first:.3f} -> {report.loss_last:.3f}"


def failed_class(report: SmokeReport) -> str:
    """The failure's class; CODE when none was found."""
    return report.failure.kind.value if report.failure else "CODE"


def failed_line(report: SmokeReport) -> str:
    """One line for a person."""
    return f"{failed_class(report)}: {report.failure.reason if report.failure else 'failed'}"


def failed_text(report: SmokeReport) -> str:
    """The classified report as JSON."""
    failure = report.failure
    body = {"passed": False, "class": failed_class(report), "reason": failure.reason if failure else "failed"}
    if failure is not None:
        body |= {"file": failure.file, "line": failure.line, "log": failure.log[-MAX_LOG_CHARS:]}
    return json.dumps(body, ensure_ascii=False)


def submit_run(workspace: Workspace, message: str) -> Observation:
    """Hand the tree in, if it is whole, allowed, and the very one that passed the last smoke test."""
    reached = workspace.over_budget()
    if reached:
        return refusal("BUDGET", reached, "nothing more can be submitted")
    try:
        patch = workspace.patch()
    except PatchRefused as error:
        return refusal("INTEGRITY", error.message, error.hint or "undo the changes to these files")
    if not patch.diff:
        return refusal("INTEGRITY", "nothing has changed since the base", "carry the idea out first")
    smoke = workspace.smoke
    if smoke is None or not smoke.passed:
        return refusal("SMOKE_STALE", "there is no passing smoke test", "run smoke_test")
    if smoke.tree != workspace.tree():
        return refusal("SMOKE_STALE", "the files have changed since the smoke test", "run smoke_test again")
    summary = f"submitted: {message.strip().splitlines()[0][:100]}" if message.strip() else "submitted"
    return Observation(json.dumps({"submitted": True, "files": list(patch.files)}), summary=summary, ends=True)
