"""One idea -> one patch: the whole episode, from a clean checkout to a recorded implementation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xar_agent
from xar_agent import prompts
from xar_agent.agent.episode import (
    Restored,
    editable_texts,
    load_implementation,
    may_go_on,
    read_events,
    restore,
    save_outcome,
)
from xar_agent.agent.events import StepEvent
from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.messages import ChatModel, Situated
from xar_agent.agent.recorder import Recorder
from xar_agent.agent.trajectory import FILE_NAME, TrajectoryWriter
from xar_agent.agent.types import Idea, Implementation
from xar_agent.errors import UserError, XarError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.packages import offered_text
from xar_agent.sandbox import open_sandbox
from xar_agent.sandbox.protocol import Patch, Sandbox
from xar_agent.store import store_errors

if TYPE_CHECKING:
    from xar_agent.agent.loop import Ending


@dataclass(frozen=True, slots=True)
class Order:
    """What an episode is asked to do."""

    idea: Idea
    bench: Bench
    model: ChatModel
    limits: EpisodeLimits
    """Of the whole episode, parts before an interruption included."""
    episode_dir: Path
    """Receives trajectory.jsonl, patch.diff, smoke.json and logs."""
    parent: Patch | None
    """Where to start from."""
    on_step: Callable[[StepEvent], None] | None
    """Hears of each tool call."""
    cancel: threading.Event | None
    """Ends the episode before its next step when set."""
    run_id: str
    """Written on each event; empty takes the folder's name."""
    submit: bool
    """False ends the episode with a passing smoke test."""
    feedback: str
    """Said to the model first; reopens an ended episode."""


def implement(
    idea: Idea,
    bench: Bench,
    model: ChatModel,
    *,
    limits: EpisodeLimits,
    episode_dir: Path,
    parent: Patch | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    cancel: threading.Event | None = None,
    run_id: str = "",
    submit: bool = True,
    feedback: str = "",
) -> Implementation:
    """Let the model carry the idea out in a sandbox; the patch so far is recorded whatever ends the episode.

    An episode on record goes on from its last complete step; one that has ended is returned, unless there is feedback.

    The arguments are the fields of ``Order``.

    Raises:
        ModelUnavailable, UnknownName, ToolsRefused: no reply came; what was done is recorded, and may be resumed.
        SandboxError, Interrupted, KeyboardInterrupt: likewise.
        PatchRefused: the parent does not fit the environment's base.
        UserError: the recorded episode belongs to another version of the environment.
    """
    order = Order(
        idea, bench, model, limits, episode_dir, parent, on_step, cancel, run_id or episode_dir.name, submit, feedback
    )
    past = past_of(order)
    if past is not None and not feedback and not may_go_on(past):
        return load_implementation(idea, bench, episode_dir)
    return in_sandbox(order, past)


def past_of(order: Order) -> Restored | None:
    """What is on record of the episode.

    Raises:
        UserError: it belongs to another version of the environment.
    """
    past = restore(read_events(order.episode_dir))
    if past is not None and past.base != order.bench.base_tree:
        whose = f"another version of environment {order.bench.env.name!r}"
        hint = "use another --run, or install the version that began it"
        raise UserError(f"{order.episode_dir} was begun with {whose}", hint)
    return past


def in_sandbox(order: Order, past: Restored | None) -> Implementation:
    """The episode over a clean checkout of where it starts or was."""
    bench, parent = order.bench, order.parent
    start_tree = past.state.tree if past else bench.add_patch(parent) if parent else bench.base_tree
    with bench.scratch_folder("implement") as folder:
        workspace = bench.checkout(start_tree, folder)
        with open_sandbox(bench.backend, bench.workspace_spec(workspace)) as sandbox:
            return run_episode(order, past, start_tree, sandbox)


def run_episode(order: Order, past: Restored | None, start_tree: str, sandbox: Sandbox) -> Implementation:
    """The episode inside its sandbox."""
    from xar_agent.agent.loop import Ending, EpisodeAgent
    from xar_agent.agent.runner import WorkspaceRunner
    from xar_agent.agent.state import State
    from xar_agent.tools.workspace import Workspace

    begun = time.monotonic()
    logs = order.episode_dir / "logs"
    with store_errors(logs, "make"):
        logs.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(sandbox, order.bench, logs, submits=order.submit)
    workspace.cancel = order.cancel or workspace.cancel
    workspace.commands = past.calls if past else 0
    workspace.smoke = past.smoke if past else None
    runner = WorkspaceRunner(workspace, start_tree)
    writer = TrajectoryWriter(order.episode_dir, order.run_id, parent_id=past.event_id if past else None)
    recorder = Recorder(writer, past.state if past else State())
    agent = EpisodeAgent(order.model, runner, recorder, order.limits, on_step=order.on_step, cancel=workspace.cancel)
    workspace.over_budget = agent.meter.reached
    try:
        try:
            begin(order, recorder, sandbox, start_tree, agent.schemas, fresh=past is None)
            ending = agent.go()
        except BaseException as error:
            finish(order, recorder, workspace, runner, Ending("failed", reason_of(error)), begun, resumable=True)
            raise
        return finish(order, recorder, workspace, runner, ending, begun, resumable=ending.outcome == "over_budget")
    finally:
        writer.close()


def begin(
    order: Order, recorder: Recorder, sandbox: Sandbox, start_tree: str, schemas: list[dict[str, Any]], *, fresh: bool
) -> None:
    """Record how the episode starts, and tell the model."""
    files = editable_texts(order.bench, start_tree)
    if fresh:
        recorder.record("run_start", **start_record(order, sandbox, start_tree, schemas))
        recorder.sync()
    if order.feedback:
        recorder.record("context", reason="repair", text=order.feedback)
    if isinstance(order.model, Situated):
        order.model.begin(order.idea.text, files)


def start_record(order: Order, sandbox: Sandbox, start_tree: str, schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the episode starts from."""
    env, bench = order.bench.env, order.bench
    values = prompt_values(order, start_tree)
    return {
        "idea": {
            "id": order.idea.id,
            "text": order.idea.text,
            "env": order.idea.env,
            "parents": list(order.idea.parents),
        },
        "env": {"name": env.name, "version": env.version, "preset": bench.preset_name},
        "base": bench.base_tree,
        "tree": start_tree,
        "image": bench.image,
        "sandbox": {"backend": sandbox.info.backend, "detail": sandbox.info.detail},
        "versions": {
            "xar_agent": xar_agent.__version__,
            "smolagents": version("smolagents"),
            "litellm": version("litellm"),
        },
        "prompts": prompts.digests(),
        "prompt_values": values,
        "model": {"name": order.model.name, "protocol": order.model.protocol},
        "limits": {name: getattr(order.limits, name) for name in EpisodeLimits.__dataclass_fields__},
        "submit": order.submit,
        "seed": None,
        "parent_run": None,
        "fork_seq": None,
        "messages": first_messages(values),
        "tools": schemas,
    }


def prompt_values(order: Order, start_tree: str) -> dict[str, Any]:
    """What the first messages are made of."""
    env, rules = order.bench.env, order.bench.env.file
    files = editable_texts(order.bench, start_tree)
    return {
        "env": env.name,
        "preset": order.bench.preset_name,
        "editable": ", ".join(rules.editable),
        "protected": ", ".join(rules.protected),
        "contract": "\n".join(filter(None, (rules.contract.strip(), offered_text(rules)))),
        "direction": f"a lower {env.metric}" if env.direction == "min" else f"a higher {env.metric}",
        "submits": order.submit,
        "idea": order.idea.text.strip(),
        "description": rules.description,
        "files": [f"{path} ({len(text.splitlines())} lines)" for path, text in files.items()],
        "parent": order.parent is not None,
    }


def first_messages(values: dict[str, Any]) -> list[dict[str, Any]]:
    """System prompt and task. The same values give the same messages, which a replay checks."""
    task = {name: values[name] for name in ("idea", "description", "files", "parent")}
    system = {name: value for name, value in values.items() if name not in task}
    return [
        {"role": "system", "content": prompts.render("system", **system)},
        {"role": "user", "content": prompts.render("implement", **task)},
    ]


def finish(
    order: Order,
    recorder: Recorder,
    workspace: Any,
    runner: Any,
    ending: Ending,
    begun: float,
    *,
    resumable: bool,
) -> Implementation:
    """Extract and record the patch, whatever ended the episode."""
    from xar_agent.tools.workspace import allowed_part

    patch = allowed_part(order.bench, runner.tree())
    smoke = workspace.smoke
    implementation = Implementation(
        idea=order.idea,
        outcome=ending.outcome,
        exit_reason=ending.reason,
        patch=patch,
        tree=order.bench.add_patch(patch),
        smoke=smoke,
        trajectory=order.episode_dir / FILE_NAME,
        steps=recorder.state.steps,
        usage=recorder.state.usage,
        model=order.model.name,
        duration_s=round(time.monotonic() - begun, 3),
    )
    save_outcome(implementation, recorder, order.episode_dir, resumable=resumable)
    return implementation


def reason_of(error: BaseException) -> str:
    """Why an exception ended the episode, in one line."""
    if isinstance(error, XarError):
        return error.message
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
