"""Dry replay: recorded replies and recorded results go through the loop again, which must decide the same.

It is the regression test of the harness and of its prompts: nothing is run and nobody is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.agent.limits import EpisodeLimits
from xar_agent.agent.recorder import EventList, Recorder
from xar_agent.agent.scripted import RecordedModel, RecordingOver
from xar_agent.agent.trajectory import Event, active_path, read_trajectory
from xar_agent.errors import UserError
from xar_agent.tools.observation import Observation

if TYPE_CHECKING:
    from smolagents import Tool

COMPARED: dict[str, tuple[str, ...]] = {
    "run_start": ("messages", "tools"),
    "llm_request": ("step", "n_messages", "request_hash"),
    "llm_response": ("step", "call_ids", "bad", "text", "tool_calls"),
    "tool_call": ("step", "call_id", "name", "arguments"),
    "tool_result": ("step", "call_id", "error", "shown"),
    "context": ("reason", "text"),
    "workspace": ("step", "tree"),
    "run_end": ("outcome",),
}
"""What must be equal, by type of event. Times, prices and places may differ."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first decision that came out differently."""

    seq: int
    """Of the recorded event."""
    step: int
    what: str
    """Type of event and field."""
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class DryReport:
    """What a dry replay found."""

    episode: Path
    steps: int
    events: int
    """How many were compared."""
    divergence: Divergence | None

    @property
    def identical(self) -> bool:
        """Every decision was the same."""
        return self.divergence is None


def dry_replay(path: Path) -> DryReport:
    """Replay a recorded episode without model and sandbox.

    Args:
        path: the episode's folder, or its trajectory.jsonl.

    Raises:
        UserError: there is no episode there, or its record is damaged.
    """
    recorded = active_path(read_trajectory(path))
    if not recorded or recorded[0].type != "run_start":
        raise UserError(f"{path} holds no episode", "give the folder of an episode: runs/RUN/impl/IDEA")
    wanted = [event for event in complete_steps(recorded) if event.type in COMPARED]
    divergence = first_divergence(wanted, replay_events(recorded))
    steps = sum(event.type == "workspace" for event in recorded)
    return DryReport(path, steps, len(wanted), divergence)


def replay_events(recorded: Sequence[Event]) -> list[Event]:
    """The events that the present harness makes of the recorded replies and results."""
    from xar_agent.agent.state import State

    sink = EventList()
    recorder = Recorder(sink, State())
    model = RecordedModel(recorded)
    start = recorded[0].data
    runner = RecordedRunner(recorded)
    recorder.record("run_start", **replayed_start(start, runner))
    for part in episode_parts(recorded):
        if part.feedback:
            recorder.record("context", reason="repair", text=part.feedback)
        model.allowed = part.last_step
        outcome = replay_part(model, runner, recorder, start)
        sink.events[:] = complete_steps(sink.events)
        if part.comparable_end:
            recorder.record("run_end", outcome=outcome)
    return sink.events


def replay_part(model: RecordedModel, runner: RecordedRunner, recorder: Recorder, start: dict[str, Any]) -> str:
    """One run of the loop: until it ends the episode, or until the recording does; the outcome."""
    from xar_agent.agent.loop import EpisodeAgent

    limits = EpisodeLimits(**{**start["limits"], "wall_s": None})  # the clock is not replayed
    agent = EpisodeAgent(model, runner, recorder, limits)
    agent.gives_up_in_words = start["model"]["protocol"] == "guided"
    try:
        return agent.go().outcome
    except RecordingOver:
        return "goes on"


@dataclass(frozen=True, slots=True)
class Part:
    """The steps between two interventions of the harness: a repair begins a new part."""

    feedback: str
    last_step: int
    """The last complete step."""
    comparable_end: bool
    """The harness itself ended it, by a rule that a replay follows too."""


def episode_parts(recorded: Sequence[Event]) -> list[Part]:
    """The recorded episode, cut where feedback reopened it."""
    feedback, last_step, ended, parts = "", 0, False, []
    for event in recorded:
        if event.type == "context" and event.data["reason"] == "repair":
            parts.append(Part(feedback, last_step, ended))
            feedback, ended = event.data["text"], False
        elif event.type == "workspace":
            last_step = event.data["step"]
        elif event.type == "run_end":
            ended = is_comparable(event)
    return [*parts, Part(feedback, last_step, ended)]


def is_comparable(end: Event) -> bool:
    """False for ends that came from outside: an exception, or the clock."""
    by_rule = not end.data["resumable"] or end.data["outcome"] == "over_budget"
    return by_rule and "time limit" not in end.data["exit_reason"]


def complete_steps(events: Sequence[Event]) -> list[Event]:
    """Without what follows the last complete step, except ends that can be compared."""
    kept: list[Event] = []
    pending: list[Event] = []
    for event in events:
        pending.append(event)
        if event.type in {"run_start", "workspace", "context"}:
            kept += pending
            pending = []
        elif event.type == "run_end":
            kept += [event] if "resumable" not in event.data or is_comparable(event) else []
            pending = []
    return kept


def replayed_start(start: dict[str, Any], runner: RecordedRunner) -> dict[str, Any]:
    """The start as the present prompts and tools make it."""
    from xar_agent.agent.implement import first_messages
    from xar_agent.tools.toolbox import tool_schema

    schemas = [tool_schema(tool) for tool in runner.tools]
    return {**start, "messages": first_messages(start["prompt_values"]), "tools": schemas}


class RecordedRunner:
    """Gives recorded results for the same calls in the same order."""

    def __init__(self, recorded: Sequence[Event]) -> None:
        from xar_agent.tools.toolbox import make_tools

        self.tools: Sequence[Tool] = make_tools(None, submits=recorded[0].data["submit"])
        self._results = [event.data for event in recorded if event.type == "tool_result" and not never_ran(event.data)]
        self._trees = [event.data["tree"] for event in recorded if event.type == "workspace"]
        self._tree: str = recorded[0].data["tree"]

    def run(self, name: str, arguments: dict[str, Any]) -> Observation:
        """The next recorded result, whatever is called: a difference shows in the ``tool_call`` before it.

        Raises:
            RecordingOver: there is none left.
        """
        del name, arguments
        if not self._results:
            raise RecordingOver("the recording has no further result")
        result = self._results.pop(0)
        return Observation(result["shown"], result["error"], result["summary"], ends=result["ends"])

    def tree(self) -> str:
        """The recorded tree of this step."""
        if self._trees:
            self._tree = self._trees.pop(0)
        return self._tree

    def diff(self) -> str:
        """Not replayed."""
        return ""


def never_ran(result: dict[str, Any]) -> bool:
    """True for results that the loop makes by itself, and so makes again."""
    return result["error"] in {"FORMAT", "UNKNOWN_TOOL", "SKIPPED"}


def first_divergence(recorded: Sequence[Event], replayed: Sequence[Event]) -> Divergence | None:
    """The first pair of events that differ, or the first that has no partner."""
    for before, after in zip(recorded, replayed, strict=False):
        if before.type != after.type:
            return Divergence(before.seq, step_of(before), "event", before.type, after.type)
        for name in COMPARED[before.type]:
            if before.data[name] != after.data[name]:
                what = f"{before.type}.{name}"
                return Divergence(before.seq, step_of(before), what, *shown_pair(before.data[name], after.data[name]))
    if len(recorded) > len(replayed):
        missing = recorded[len(replayed)]
        return Divergence(missing.seq, step_of(missing), "event", missing.type, "nothing: the episode ended")
    if len(replayed) > len(recorded):
        extra = replayed[len(recorded)]
        last = recorded[-1]
        return Divergence(last.seq, step_of(extra), "event", "nothing: the episode ended", extra.type)
    return None


def step_of(event: Event) -> int:
    """The step that an event belongs to; 0 before the first."""
    return int(event.data.get("step", 0))


def shown_pair(before: object, after: object) -> tuple[str, str]:
    """Both values as text, from shortly before the place where they part."""
    texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in (before, after)]
    at = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    cut = max(at - 40, 0)
    first, second = (text[cut : cut + 200] for text in texts)
    return first, second
