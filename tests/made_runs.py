"""A small run with real records: two epochs of ideas of every kind of ending, made without training anything."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xar_agent.agent.types import Idea
from xar_agent.envs.spec import Baseline, CurvePoint
from xar_agent.jobs.records import IdeaRecord, ImplementationRecord, Spend
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import Evaluation, Failure, FailureClass, Job, JobSpec, JobState, SmokeReport
from xar_agent.sandbox.protocol import Patch

MACHINE = "a processor x2, torch 2.13.0"
HOSTILE = "<script>alert(1)</script> & <img src=http://example.org/x onerror=alert(2)> $x^{ \x1b[31mred\u202e"
"""What an idea's text may hold."""
SETTINGS = {
    "verb": "evolve",
    "env": "toy",
    "preset": "default",
    "policy": "paper",
    "model": "local/small",
    "epochs": 2,
    "ideas": 7,
    "seeds": 1,
    "budget_usd": 3.0,
}


def baseline(mean: float = 2.5, sd: float = 0.02, n: int = 20) -> Baseline:
    """As a calibration gives it."""
    return Baseline(
        env_version="env1",
        evaluator_version="eval1",
        preset="default",
        machine=MACHINE,
        mean=mean,
        sd=sd,
        n=n,
        values={str(seed): mean for seed in range(n)},
        cpu_s=10.0,
        curve=[CurvePoint(compute=1.0, mean=mean, sd=sd, n=n)],
    )


@dataclass(frozen=True, slots=True)
class Made:
    """What becomes of one idea."""

    text: str
    values: Sequence[float] = ()
    """One a seed."""
    origin: str = "seed"
    epoch: int = 0
    failure: Failure | None = None
    """Of the full run."""
    smoke: Failure | None = None
    outcome: str = "submitted"
    tree: str = ""
    parents: tuple[str, ...] = ()
    cost_usd: float | None = 0.01
    refused: str = ""
    """Why the evaluation does not count."""
    flags: tuple[str, ...] = ()
    open: bool = False
    direction: Literal["min", "max"] = "min"


def make_run(runs_dir: Path, ideas: Sequence[Made], name: str = "run", base: Baseline | None = None) -> Path:
    """The folder of a run with these ideas, in this order of results."""
    with RunStore.create(runs_dir, name, SETTINGS) as store:
        for number, made in enumerate(ideas):
            add_idea(store, made, number, baseline() if base is None else base)
        return store.dir


def idea_id(made: Made) -> str:
    """As ``Idea.id``."""
    return Idea(made.text, "toy", made.parents).id


def add_idea(store: RunStore, made: Made, number: int, base: Baseline) -> None:
    """One idea with its episode, its jobs and its bill."""
    name, tree = idea_id(made), made.tree or f"tree{number}"
    store.add_idea(IdeaRecord(name, made.text, "toy", made.parents, made.origin, made.epoch))
    if made.open:
        return
    path = store.dir / "impl" / name / "patch.diff"
    path.parent.mkdir(parents=True)
    path.write_text(f"a diff of idea {number}\n")
    smoke = SmokeReport("sha", tree, made.smoke is None, made.smoke, 3.0, 2.0, 1.0, 1.0)
    places = (f"impl/{name}/patch.diff", "sha", f"impl/{name}/trajectory.jsonl")
    reason = "the agent had nothing more to try" if made.outcome != "submitted" else "submitted"
    bill = (5, 1000, 200, made.cost_usd, "local/small", 12.0)
    store.add_implementation(ImplementationRecord(name, made.outcome, reason, tree, *places, smoke, *bill))
    store.add_spend(Spend(name, "model", "local/small", 1000, 200, made.cost_usd, 0.0, 12.0))
    for seed, value in enumerate(made.values or ([0.0] if made.failure else [])):
        add_job(store, name, tree, seed, value, made)
    if made.values:
        store.record_finding(name, "effect", base)


def add_job(store: RunStore, name: str, tree: str, seed: int, value: float, made: Made, split: str = "val") -> None:
    """One full run that has ended."""
    job_id = f"{name}-{split}-{seed}"
    spec = JobSpec("run", name, "toy", "default", seed, Patch("base", "", (), 0, 0, ""), tree, split)  # type: ignore[arg-type]
    store.add_job(Job(job_id, job_id, spec, JobState.QUEUED, 1, None, None), job_id)
    store.add_spend(Spend(name, "train", cpu_s=36.0, wall_s=40.0))
    if made.failure is not None:
        store.set_state(job_id, JobState.FAILED, made.failure)
        return
    reasons = (made.refused,) if made.refused else ()
    versions = ("checkpoint", "env1", "eval1", "data", MACHINE)
    store.record_evaluation(
        job_id,
        1,
        Evaluation(
            "val_loss",
            value,
            made.direction,
            not reasons,
            reasons,
            (),
            seed,
            1.0,
            36.0,
            40.0,
            10,
            tree,
            *versions,
            corpus="plays",
            flags=made.flags,
        ),  # fmt: skip
        job_id,
    )


def session() -> list[Made]:
    """Two epochs in which everything happens that can."""
    parent = Made("Raise the learning rate to 0.006.", [2.41])
    return [
        parent,
        Made("Leave it as it is.", [2.507]),
        Made("A model of twice the width.", failure=Failure(FailureClass.NAN, "the loss became NaN at step 12")),
        Made(HOSTILE, [2.62]),
        Made("Rewrite it in C.", outcome="gave_up"),
        Made("No comma.", smoke=Failure(FailureClass.SYNTAX, "train.py:3: invalid syntax"), outcome="stuck"),
        Made("Read the test set.", [1.2], refused="the checkpoint was not made by this run"),
        Made("Half the batch as well.", [2.37], origin="exploit", epoch=1, parents=(idea_id(parent),), cost_usd=None),
        Made("The same rate again.", [], origin="explore", epoch=1, tree="tree0"),
        Made("No schedule.", [2.495], origin="explore", epoch=1),
        Made("Still at work.", origin="explore", epoch=1, open=True),
    ]


def long_session(n: int, seed: int = 0) -> list[Made]:
    """Many ideas, most of them null runs, some broken, a few better."""
    rng = random.Random(seed)
    crash = Failure(FailureClass.SHAPE, "mat1 and mat2 shapes cannot be multiplied")
    ideas = []
    for i in range(n):
        epoch, kind = i * 4 // n, rng.random()
        common = {"origin": "seed" if epoch == 0 else rng.choice(["explore", "exploit"]), "epoch": epoch}
        if kind < 0.25:
            ideas.append(Made(f"Idea {i} breaks.", failure=crash, **common))  # type: ignore[arg-type]
        else:
            better = 0.05 * epoch * (kind > 0.7)
            worse = 0.8 * (kind < 0.3)
            ideas.append(Made(f"Idea {i}.", [rng.gauss(2.5 - better + worse, 0.02)], **common))  # type: ignore[arg-type]
    return ideas
