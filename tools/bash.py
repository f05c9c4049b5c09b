"""bash: run a command in the sandbox."""

from __future__ import annotations

from pathlib import Path

from xar_agent.sandbox.protocol import ExecResult
from xar_agent.store import store_errors
from xar_agent.tools.observation import Observation, refusal
from xar_agent.tools.workspace import Workspace

MAX_SHOWN_BYTES = 8_192
MAX_KEPT_BYTES = 8 * 1024 * 1024  # of one command's whole output, copied where the model can read on
MAX_TIMEOUT_S = 600


def run_bash(workspace: Workspace, command: str, timeout_s: int = 120, cwd: str = "") -> Observation:
    """Run a command to its end or its deadline; what does not fit is kept in a file."""
    folder = workspace.relative(cwd) if cwd else ""
    workspace.commands += 1
    log = workspace.logs / f"bash-{workspace.commands}.log"
    allowed_s = min(max(timeout_s, 1), MAX_TIMEOUT_S)
    argv = ["bash", "-c", command]
    with store_errors(log, "write"):
        result = workspace.sandbox.exec(argv, cwd=folder, timeout_s=allowed_s, max_bytes=MAX_SHOWN_BYTES, log_path=log)
    full = keep_output(workspace, log, result)
    output = result.output + (f"\n[whole output: {full}]" if full else "")
    record: dict[str, object] = {
        "exit_code": result.exit_code,
        "duration_s": round(result.duration_s, 3),
        "cpu_s": round(result.cpu_s, 3),
        "bytes": result.n_bytes,
        "survivors_killed": result.survivors_killed,
        "stopped_by": result.stopped_by,
    }
    line = command.strip().splitlines()[0][:100] if command.strip() else ""
    if result.timed_out or result.oom:
        return stopped(result, output, allowed_s, full, record)
    text = f"exit code {result.exit_code}\n{output}" if output else f"exit code {result.exit_code}, no output"
    return Observation(text, summary=f"{line} -> {result.exit_code}", full=full, record=record)


def stopped(result: ExecResult, output: str, allowed_s: int, full: str, record: dict[str, object]) -> Observation:
    """TIMEOUT or OOM, with what the command wrote until then."""
    if result.timed_out:
        told = refusal(
            "TIMEOUT", f"stopped after {allowed_s} s", "give it less work, or a longer timeout_s", output=output
        )
    else:
        told = refusal("OOM", "it used more memory than there is", "make it smaller", output=output)
    return Observation(told.text, told.error, told.summary, full, record)


def keep_output(workspace: Workspace, log: Path, result: ExecResult) -> str:
    """Put an output that was cut where the model can read it; its path, or "" when nothing was cut."""
    if not result.tail or not log.is_file():
        return ""
    path = f"out/logs/{log.name}"
    with log.open("rb") as file:
        content = file.read(MAX_KEPT_BYTES)
    try:
        workspace.sandbox.write(path, content)
    except OSError:  # the model may have put a file or a link in the way: the host's copy remains
        return ""
    return path
