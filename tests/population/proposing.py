"""One proposal of ideas on the toy environment, with whatever model, results and places a test wants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xar_agent.agent.messages import ChatModel, ModelReply
from xar_agent.agent.types import Idea
from xar_agent.envs.spec import Baseline, CurvePoint, load_env
from xar_agent.jobs.types import FailureClass, Score
from xar_agent.population.ideation import Call, propose_with_model
from xar_agent.population.types import Outcome, Slot

ENV = load_env("toy")
FILES = {
    "train.py": 'LEARNING_RATE = 1.0  # peak\n\n\ndef train(model):\n    """All steps."""\n    model.step()\n',
    "model.py": "ORDER = 2\n",
}
BASELINE = Baseline(
    env_version="e",
    evaluator_version="v",
    preset="default",
    machine="m",
    mean=2.5,
    sd=0.01,
    n=2,
    values={"0": 2.49, "1": 2.51},
    cpu_s=1.0,
    curve=[CurvePoint(compute=1.0, mean=2.5, sd=0.01, n=2)],
)
SEED = Slot("seed")
EXPLORE = Slot("explore")

TITLES = (
    "Squared ReLU inside the network",
    "Label smoothing of five percent",
    "Exponential average over weights",
    "Larger minibatches towards the end",
    "Rotary positions replace learned ones",
    "Untied output layer with bias",
    "Nesterov momentum optimizer instead",
    "Orthogonal initialisation for matrices",
    "Dropout scheduled from high down",
    "Byte bigram counts as features",
    "Cyclical warm restarts thrice",
    "Gradient noise decaying quickly",
)


def entry(title: str, **more: Any) -> dict[str, Any]:
    """One idea as an obedient model writes it."""
    fields = {"description": f"why {title.split()[0]}", "code_changes": f"where {title.split()[-1]}"}
    return {"title": title, **fields, "hyperparameters": [], **more}


def answer(*titles: str) -> ModelReply:
    """A reply with these ideas, one a title, as different as the titles are."""
    return ModelReply(json.dumps({"ideas": [entry(title) for title in titles]}))


def tried(text: str, gain: float | None = None, **more: Any) -> Outcome:
    """An idea with a result: this much better than the baseline, or failed as ``more`` says."""
    idea = Idea(text, "toy", origin="seed")
    if gain is None:
        return Outcome(idea, **{"failure": FailureClass.CODE, "reason": "it crashed", **more})
    score = Score(BASELINE.mean - gain, 2.4, 2.6, 1, BASELINE.mean, -gain, "better" if gain > 0 else "worse")
    return Outcome(idea, score, gain, **more)


def propose(
    folder: Path,
    model: ChatModel,
    slots: Sequence[Slot],
    outcomes: Sequence[Outcome] = (),
    pending: Sequence[Idea] = (),
    **more: Any,
) -> tuple[Idea, ...]:
    """The ideas for these places."""
    call = Call(0, more.pop("epoch", 0), tuple(slots), outcomes, pending, folder, "1:0")
    values = {"env": ENV, "preset": "default", "baseline": BASELINE, "files": FILES, "model": model, **more}
    return propose_with_model(call, **values)
