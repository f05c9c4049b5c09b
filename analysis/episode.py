"""An episode's folder as values: what was asked, what the agent did, step by step, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xar_agent
from xar_agent.agent.trajectory import FILE_NAME, Event, active_path, read_trajectory
from xar_agent.errors import UnknownName

KNOWN_IN_HINT = 5
PACKAGE = Path(xar_agent.__file__).resolve().parent
SHIPPED = (PACKAGE / "examples", PACKAGE.parents[1] / "examples" / "episodes")
"""Where recorded episodes lie that come along: inside an installed package, or in a checkout."""


@dataclass(slots=True)
class Call:
    """One tool call with its result."""

    name: str
    arguments: str
    """As the model wrote them."""
    error: str = ""
    summary: str = ""
    shown: str = ""
    """What the model was shown."""
    answered: bool = False
    """False when the episode was cut off before the result."""


@dataclass(slots=True)
class Step:
    """One reply of the model with everything that followed from it."""

    number: int
    text: str = ""
    latency_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    calls: list[Call] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    """What the harness said to the model, or decided: kind and text."""
    diff: str | None = None
    """All changes since the base, where this step changed something."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One recorded episode. ``end`` is empty when it was cut off."""

    folder: Path
    start: dict[str, Any]
    steps: tuple[Step, ...]
    end: dict[str, Any]

    @property
    def tokens(self) -> tuple[int, int]:
        """Input and output over all steps."""
        return sum(step.input_tokens for step in self.steps), sum(step.output_tokens for step in self.steps)


def shipped_episodes() -> dict[str, Path]:
    """Name -> folder of each episode that comes along."""
    return {path.parent.name: path.parent for folder in SHIPPED for path in sorted(folder.glob(f"*/{FILE_NAME}"))}


def find_episode(path: Path) -> Path:
    """The episode's folder: the path itself, the only episode of a run, or one that comes along.

    Args:
        path: an episode's folder or its trajectory, a run's folder, or examples/NAME from wherever one is.

    Raises:
        UnknownName: there is none, or a run has several; the hint says which.
    """
    if path.is_file() and path.name == FILE_NAME:
        return path.parent
    if (path / FILE_NAME).is_file():
        return path
    if not path.exists() and path.parts[:1] == ("examples",) and path.name in shipped_episodes():
        return shipped_episodes()[path.name]
    found = sorted(p.parent for p in path.glob(f"impl/*/{FILE_NAME}"))
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(p) for p in found[:KNOWN_IN_HINT])
        raise UnknownName(f"{path} has {len(found)} episodes", f"give one of them: {listed}")
    problem = f"{path} is not an episode: it has no {FILE_NAME}" if path.exists() else f"{path} does not exist"
    shipped = "".join(f", examples/{name}" for name in shipped_episodes())
    raise UnknownName(problem, f"give the folder of a run (see: xar-agent runs list) or of an episode{shipped}")


def read_episode(path: Path) -> Episode:
    """Read an episode; only the file is read, nothing is run.

    Raises:
        UnknownName: there is no episode.
        UserError: its trajectory is damaged.
    """
    folder = find_episode(path)
    return episode_of(folder, active_path(read_trajectory(folder)))


def episode_of(folder: Path, events: Sequence[Event]) -> Episode:
    """The events of one branch, by step."""
    start: dict[str, Any] = {}
    end: dict[str, Any] = {}
    steps: list[Step] = []
    for event in events:
        if event.type == "run_start":
            start = event.data
        elif event.type == "run_end":
            end = event.data
        elif event.type in READERS:
            number = event.data.get("step")
            if not steps or (isinstance(number, int) and number != steps[-1].number):
                steps.append(Step(number if isinstance(number, int) else len(steps) + 1))
            READERS[event.type](steps[-1], event.data)
    return Episode(folder, start, tuple(steps), end)


def read_response(step: Step, data: dict[str, Any]) -> None:
    """The model's reply."""
    usage = data.get("usage") or {}
    step.text = str(data.get("text") or "")
    step.latency_s += float(data.get("latency_s") or 0)
    step.input_tokens += int(usage.get("input_tokens") or 0)
    step.output_tokens += int(usage.get("output_tokens") or 0)
    step.cost_usd = data.get("cost_usd")


def read_call(step: Step, data: dict[str, Any]) -> None:
    """A call that was made."""
    step.calls.append(Call(str(data.get("name")), str(data.get("arguments"))))


def read_result(step: Step, data: dict[str, Any]) -> None:
    """The result of the last call: they are run one after the other."""
    if not step.calls:
        return
    call = step.calls[-1]
    call.error, call.summary = str(data.get("error") or ""), str(data.get("summary") or "")
    call.shown, call.answered = str(data.get("shown") or ""), True


def read_workspace(step: Step, data: dict[str, Any]) -> None:
    """The tree after the step."""
    step.diff = data.get("diff")


def read_note(step: Step, data: dict[str, Any]) -> None:
    """Something that the harness said or decided."""
    kind = str(data.get("reason") or data.get("kind") or data.get("state") or "note")
    text = data.get("text") or data.get("message") or ""
    step.notes.append((kind, str(text)))


READERS = {
    "llm_response": read_response,
    "tool_call": read_call,
    "tool_result": read_result,
    "workspace": read_workspace,
    "context": read_note,
    "integrity": read_note,
    "job": read_note,
}
"""Event type -> what it adds to its step. Types that are not here are of no interest to a reader."""
