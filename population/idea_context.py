"""What an ideator is shown: the repository once, and as much of what was tried as its window takes."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xar_agent import prompts
from xar_agent.agent.outline import Part, outline_files
from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import Knob
from xar_agent.envs.spec import Baseline, EnvSpec
from xar_agent.jobs.types import FailureClass
from xar_agent.population.types import Outcome, Slot

WINNERS_SHARE, FAILURES_SHARE = 0.4, 0.4
"""Of the room for what was tried, before the rest is drawn from everything that is left."""
OF_SCORING = frozenset({FailureClass.SHAPE, FailureClass.NAN, FailureClass.CONTRACT, FailureClass.INVALID})
"""What an evaluation may say of a program, with "CHECK: what we say: what the program said" as its reason."""
ELLIPSIS = " ..."
CODE_EVERY = 3
"""A small model is asked for one change of code among so many; it gets the value of a constant right far more often."""
PLUMBING = re.compile("main|train|save|load|read|write|log|print|next")
"""Names of functions that a small model should leave alone."""
PROMPT_OF = {"seed": "ideate_first", "explore": "ideate_explore"}
"""Origin of a slot without parents -> its prompt; with parents it is ``ideate_exploit``."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many ideas are asked for at once, and how many characters each part of a prompt may have."""

    ideas: int
    code: int
    """Of the repository's files in full; where they are longer, their outline stands for them."""
    outline: int
    tried: int
    """Of all lines about other ideas together, and again of those that are on their way."""
    idea: int
    """Of one idea in such a line."""
    parent: int
    diff: int
    small: bool = False
    """For a small model: the short instructions, with examples."""


ROOMY = Room(ideas=10, code=60_000, outline=20_000, tried=24_000, idea=800, parent=4_000, diff=16_000)
TIGHT = Room(ideas=5, code=0, outline=3_000, tried=1_300, idea=150, parent=500, diff=600, small=True)
"""About 2,200 tokens in all, so that prompt, answer and one correction fit a window of 4,096."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What does not change within one proposal."""

    env: EnvSpec
    preset: str
    baseline: Baseline | None
    files: Mapping[str, str]
    outcomes: Sequence[Outcome]
    knobs: Sequence[Knob] = ()
    samples_evenly: bool = False
    """Where not all that was tried fits: any of it alike."""


def system_text(scene: Scene, room: Room) -> str:
    """The instructions and the repository: equal in all requests of a run, so that servers can keep it computed."""
    file, preset = scene.env.file, scene.env.preset(scene.preset)
    whole = sum(len(text) for text in scene.files.values()) <= room.code
    parts = [] if whole else outline(scene, room)
    return prompts.render(
        "ideate_system",
        env=scene.env.name,
        preset=scene.preset,
        description=file.description,
        metric=file.metric,
        direction="lower" if file.direction == "min" else "higher",
        budget=f"{preset.budget:,} {preset.clock}",
        baseline=f"{scene.baseline.mean:.4f} (sd over seeds {scene.baseline.sd:.4f})" if scene.baseline else "",
        editable=", ".join(file.editable),
        contract=file.contract.strip() + "\n",
        files=[{"path": path, "text": text} for path, text in sorted(scene.files.items())] if whole else [],
        parts=parts,
        small=room.small,
    )


def outline(scene: Scene, room: Room) -> list[Part]:
    """As many parts of the files as there is room for, constants first: to name one is enough to change it."""
    taken: list[Part] = []
    used = 0
    for part in sorted(outline_files(scene.files), key=lambda part: part.kind != "constant"):
        used += len(part.label) + len(part.summary) + len("-  | ") + 1
        if used > room.outline:
            break
        taken.append(part)
    return taken


def ask_text(scene: Scene, room: Room, slot: Slot, n: int, coming: Sequence[Idea], rng: random.Random) -> str:
    """The request for ``n`` ideas for places like this one; ``coming`` are ideas without a result."""
    parents = [outcome for outcome in scene.outcomes if outcome.idea.id in slot.parents]
    parents.sort(key=lambda outcome: slot.parents.index(outcome.idea.id))
    others = [outcome for outcome in scene.outcomes if outcome.idea.id not in slot.parents]
    name = "ideate_exploit" if slot.parents else PROMPT_OF.get(slot.origin, "ideate_explore")
    places = places_for(scene, n, rng) if room.small else []
    values = {"n": n, "places": places, **tried(scene, room, others, rng), "taken": on_their_way(room, coming)}
    if slot.parents:
        values["parents"] = [parent_values(scene, room, parent) for parent in parents]
    return prompts.render(name, **values)


def places_for(scene: Scene, n: int, rng: random.Random) -> list[str]:
    """One place of the program for each idea: a small model left alone goes down the list and doubles everything."""
    named = set(re.findall(r"\w+", scene.env.file.contract))
    menu = {(knob.file, knob.name): knob for knob in scene.knobs}
    values, code = [], []
    for part in outline_files(scene.files):
        knob = menu.get((part.path, part.name))
        if knob is not None or (part.kind == "constant" and not menu and part.name not in named):
            values.append(f"{part.path}: {part.summary}{range_of(knob)}")
        elif part.kind == "function" and part.name not in named and not PLUMBING.match(part.name):
            code.append(f"{part.path}: {part.summary}")
    rng.shuffle(values)
    rng.shuffle(code)
    n_code = min(len(code), n // CODE_EVERY if values else n)
    chosen = values[: n - n_code] + code[:n_code]
    return chosen if len(chosen) == n else []


def range_of(knob: Knob | None) -> str:
    """What the menu allows a constant, in words."""
    if knob is None:
        return ""
    if knob.kind == "choice":
        return f" -> one of {', '.join(str(value) for value in knob.values if value != knob.default)}"
    return f" -> from {knob.low:g} to {knob.high:g}"


def tried(scene: Scene, room: Room, outcomes: Sequence[Outcome], rng: random.Random) -> dict[str, Any]:
    """The lists of ``ideate_tried``: best winners and latest failures first unless any are alike; then a sample."""
    lines = {id(outcome): line_of(scene, room, outcome) for outcome in outcomes}
    winners = sorted((o for o in outcomes if o.beats_baseline), key=lambda o: -(o.gain or 0.0))
    failures = [o for o in reversed(outcomes) if not o.valid]
    shown: list[Outcome] = []
    if not scene.samples_evenly:
        shown += within(winners, lines, room.tried * WINNERS_SHARE)
        shown += within(failures, lines, room.tried * FAILURES_SHARE)
    seen = {id(outcome) for outcome in shown}
    rest = [outcome for outcome in outcomes if id(outcome) not in seen]
    rng.shuffle(rest)
    used = sum(len(lines[id(outcome)]) for outcome in shown)
    seen |= {id(outcome) for outcome in within(rest, lines, room.tried - used)}
    others = [o for o in outcomes if o.valid and not o.beats_baseline]
    named = {"winners": winners, "failures": failures, "others": others}
    shown_lines = {name: [lines[id(o)] for o in group if id(o) in seen] for name, group in named.items()}
    return {**shown_lines, "n_unlisted": len(outcomes) - len(seen)}


def within(outcomes: Sequence[Outcome], lines: Mapping[int, str], room_chars: float) -> list[Outcome]:
    """As many from the start as there is room for; one at least if there is any room."""
    taken: list[Outcome] = []
    for outcome in outcomes:
        room_chars -= len(lines[id(outcome)])
        if room_chars < 0 and (taken or room_chars < -len(lines[id(outcome)])):
            break
        taken.append(outcome)
    return taken


def on_their_way(room: Room, coming: Sequence[Idea]) -> list[str]:
    """Ideas without a result, the latest last; the oldest are left out first."""
    lines: list[str] = []
    used = 0
    for idea in reversed(coming):
        line = short(idea.text, room.idea)
        used += len(line)
        if used > room.tried and lines:
            break
        lines.append(line)
    return lines[::-1]


def line_of(scene: Scene, room: Room, outcome: Outcome) -> str:
    """One tried idea: what came of it, then what it was."""
    result = short(result_of(scene, outcome), room.idea)
    return f"[{result}] {short(outcome.idea.text, room.idea)}"


def result_of(scene: Scene, outcome: Outcome) -> str:
    """Its score against the baseline, or the class and the reason of its failure."""
    if not outcome.valid or outcome.score is None:
        kind = f"failed, {outcome.failure}" if outcome.failure else "no result"
        reason = said_by_us(outcome)
        return f"{kind}: {reason}" if reason else kind
    words = f"{scene.env.metric} {outcome.score.mean:.4f}"
    if outcome.gain is not None:
        words += f", {abs(outcome.gain):.4f} {'better' if outcome.gain > 0 else 'worse'} than the unchanged repository"
    if outcome.score.verdict == "within_noise":
        words += ", within the noise"
    return words + (", the same program as an earlier idea" if outcome.same_as else "")


def said_by_us(outcome: Outcome) -> str:
    """Why an idea failed, without the candidate's own words where it was scored: there it has seen held-out text."""
    if outcome.failure not in OF_SCORING:
        return outcome.reason
    return ": ".join(outcome.reason.split(": ")[:2])


def parent_values(scene: Scene, room: Room, parent: Outcome) -> dict[str, str]:
    """A parent as ``ideate_exploit`` shows it."""
    diff = parent.diff if len(parent.diff) <= room.diff else parent.diff[: room.diff].rpartition("\n")[0] + "\n(cut)"
    return {"text": short(parent.idea.text, room.parent), "result": result_of(scene, parent), "diff": diff.strip("\n")}


def groups(slots: Sequence[Slot], most: int) -> Iterator[list[int]]:
    """Places of one kind (origin and parents), as many as one call asks for, by number."""
    kinds: dict[Slot, list[int]] = {}
    for place, slot in enumerate(slots):
        kinds.setdefault(slot, []).append(place)
    for places in kinds.values():
        for start in range(0, len(places), most):
            yield places[start : start + most]


def short(text: str, limit: int) -> str:
    """The text in one line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - len(ELLIPSIS)].rstrip() + ELLIPSIS
