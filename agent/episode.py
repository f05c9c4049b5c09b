"""An episode on disk: what it left, whether it may go on, and its implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xar_agent.agent.recorder import Recorder
from xar_agent.agent.state import State, add_bill, fold, reply_from
from xar_agent.agent.trajectory import FILE_NAME, Event, TrajectoryWriter, active_path, last_complete, read_trajectory
from xar_agent.agent.types import Idea, Implementation, Usage
from xar_agent.errors import PatchRefused, StoreError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.records import dump, load
from xar_agent.jobs.types import Job, SmokeReport
from xar_agent.redact import redact
from xar_agent.sandbox import objects
from xar_agent.sandbox.protocol import Patch
from xar_agent.store import write_atomic

PATCH_FILE = "patch.diff"
SMOKE_FILE = "smoke.json"


@dataclass(frozen=True, slots=True)
class Restored:
    """A recorded episode, ready to go on."""

    state: State
    event_id: str
    """The event to go on from."""
    base: str
    calls: int
    """Tool calls so far, abandoned ones too: logs of new ones must not overwrite theirs."""
    smoke: SmokeReport | None
    end: dict[str, Any] | None
    """The last ``run_end``, if the episode has ended."""


def read_events(episode_dir: Path) -> list[Event]:
    """Events on record; none when the episode has not begun."""
    path = episode_dir / FILE_NAME
    return read_trajectory(path) if path.exists() else []


def restore(events: list[Event]) -> Restored | None:
    """The episode's state after its last complete step, or None when there is nothing to go on from."""
    path = [event for event in active_path(events) if event.type != "job"]
    ended = path[-1] if path and path[-1].type == "run_end" else None
    final = ended if ended is not None and not ended.data["resumable"] else None
    last = final or last_complete(events)
    if last is None:
        return None
    kept = active_path(events, last.id)
    state = fold(kept)
    usage = Usage(cost_usd=0.0)
    for event in events:  # abandoned replies were paid for too
        if event.type == "llm_response":
            usage = add_bill(usage, reply_from(event.data))
    state.usage = usage
    return Restored(
        state=state,
        event_id=events[-1].id if final else last.id,
        base=kept[0].data["base"],
        calls=sum(event.type == "tool_call" for event in events),
        smoke=last_smoke(kept),
        end=ended.data if ended is not None else None,
    )


def last_smoke(events: list[Event]) -> SmokeReport | None:
    """The last smoke test's report among these events."""
    for event in reversed(events):
        text = event.data.get("exec", {}).get("smoke") if event.type == "tool_result" else None
        if text:
            return load(SmokeReport, text)
    return None


def may_go_on(past: Restored) -> bool:
    """True unless the episode came to an end of its own."""
    return past.end is None or bool(past.end["resumable"])


def save_outcome(implementation: Implementation, recorder: Recorder, folder: Path, *, resumable: bool) -> None:
    """Write patch.diff and smoke.json, then the ``run_end`` that vouches for them."""
    write_atomic(folder / PATCH_FILE, redact(implementation.patch.diff))
    if implementation.smoke is not None:
        write_atomic(folder / SMOKE_FILE, redact(dump(implementation.smoke)))
    patch = asdict(replace(implementation.patch, diff=""))
    recorder.record(
        "run_end",
        outcome=implementation.outcome,
        exit_reason=implementation.exit_reason,
        patch=patch,
        tree=implementation.tree,
        steps=implementation.steps,
        usage=asdict(implementation.usage),
        model=implementation.model,
        duration_s=round(implementation.duration_s, 3),
        resumable=resumable,
    )
    recorder.sync()


def record_jobs(folder: Path, run_id: str, jobs: Sequence[Job]) -> None:
    """Add what became of the full runs to the episode's story; what is told already is not told again."""
    told = [event.data for event in read_events(folder) if event.type == "job"]
    writer = TrajectoryWriter(folder, run_id)
    for job in jobs:
        evaluation = job.evaluation
        entry = {
            "job_id": job.id,
            "attempt": job.attempt,
            "seed": job.spec.seed,
            "tree": job.spec.tree,
            "state": job.state.value,
            "failure": job.failure.kind.value if job.failure else None,
            "reason": job.failure.reason if job.failure else "",
            "value": evaluation.value if evaluation else None,
            "valid": evaluation.valid if evaluation else None,
        }
        if entry not in told:
            writer.append("job", **entry)
    writer.sync()
    writer.close()


def load_implementation(idea: Idea, bench: Bench, folder: Path) -> Implementation:
    """The implementation that an ended episode recorded.

    Raises:
        StoreError: the episode has not ended, or the run's store no longer has what it recorded.
    """
    end = next((e.data for e in reversed(active_path(read_events(folder))) if e.type == "run_end"), None)
    if end is None:
        raise StoreError(f"{folder} holds no finished episode")
    smoke = folder / SMOKE_FILE
    return Implementation(
        idea=idea,
        outcome=end["outcome"],
        exit_reason=end["exit_reason"],
        patch=recorded_patch(end, bench, folder),
        tree=end["tree"],
        smoke=load(SmokeReport, smoke.read_text()) if smoke.exists() else None,
        trajectory=folder / FILE_NAME,
        steps=end["steps"],
        usage=Usage(**end["usage"]),
        model=end["model"],
        duration_s=end["duration_s"],
    )


def recorded_patch(end: dict[str, Any], bench: Bench, folder: Path) -> Patch:
    """The patch as the run's store has it: secrets are masked in patch.diff, which is for people.

    Raises:
        StoreError: it is not the one that the episode recorded, or not there.
    """
    hint = "use another --run: the idea is then implemented anew"
    try:
        patch = bench.diff(end["tree"])
    except PatchRefused as error:
        raise StoreError(f"the patch of {folder} cannot be read from the run's store: {error}", hint) from error
    if patch.sha256 != end["patch"]["sha256"]:
        raise StoreError(f"the patch in the run's store is not the one that {folder} recorded", hint)
    return patch


def repairs_on_record(folder: Path) -> int:
    """How often a crash of the full run went back to the agent already."""
    path = active_path(read_events(folder))
    return sum(event.type == "context" and event.data["reason"] == "repair" for event in path)


def editable_texts(bench: Bench, tree_hash: str) -> dict[str, str]:
    """Path -> text of each file of a tree that a patch may change."""
    from xar_agent.sandbox import tree

    rules = bench.env.file
    texts = {}
    for path, entry in sorted(objects.list_tree(bench.git_store, tree_hash).items()):
        if tree.matches(path, rules.editable) and not tree.matches(path, rules.protected):
            texts[path] = objects.read_blob(bench.git_store, entry.hash).decode("utf-8", "replace")
    return texts
