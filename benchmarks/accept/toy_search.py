"""A search over the toy environment under a scripted model: what the points of the second milestone are tried on."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xar_agent.store import read_lines

Point = tuple[bool, str]
COMMAND = (sys.executable, "-m", "xar_agent")
STEP_TOKENS = (400, 40)
PROPOSAL_TOKENS = (1500, 300)


@dataclass(frozen=True)
class Change:
    """An idea of the script, and the edit that carries it out."""

    title: str
    why: str
    how: str
    path: str
    old: str
    new: str


SCHEDULE = "    if fraction < WARMUP_FRACTION:\n        return"
RAISES = f"    raise ValueError('no such schedule')\n{SCHEDULE}"
LARGER = Change("Larger steps", "The loss still falls at the end.", "Set LEARNING_RATE to 3.0.",
                "train.py", "LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")  # fmt: skip
BROKEN = Change("Broken schedule", "An experiment that cannot work.", "Let learning_rate raise an exception.",
                "train.py", SCHEDULE, RAISES)  # fmt: skip
FIRST = (
    LARGER,
    Change("Triple pace", "Updates could travel further through weight space.", "Multiply the peak rate by three.",
           "train.py", "LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0"),
    BROKEN,
    Change("Fewer rows", "More updates for the same characters.", "Halve BATCH_SIZE, so that it is 4.",
           "train.py", "BATCH_SIZE = 8 ", "BATCH_SIZE = 4 "),
)  # fmt: skip
SECOND = (
    Change("Gentle start", "Early gradients are noisy.", "Give WARMUP_FRACTION the value 0.05.",
           "train.py", "WARMUP_FRACTION = 0.0 ", "WARMUP_FRACTION = 0.05 "),
    Change("Higher floor", "Late steps are too timid.", "Change FINAL_LR_FRACTION to 0.2.",
           "train.py", "FINAL_LR_FRACTION = 0.1 ", "FINAL_LR_FRACTION = 0.2 "),
    Change("Slight shrinkage", "Rare contexts overfit.", "Use WEIGHT_DECAY of 0.001.",
           "train.py", "WEIGHT_DECAY = 0.0 ", "WEIGHT_DECAY = 0.001 "),
    Change("Quieter log", "Printing costs time.", "Raise LOG_EVERY_STEPS to eight.",
           "train.py", "LOG_EVERY_STEPS = 4", "LOG_EVERY_STEPS = 8"),
)  # fmt: skip
THIRD = (
    Change("Wider weights", "Symmetry breaks sooner with a broader spread.", "INIT_STD becomes 0.2 in model.py.",
           "model.py", "INIT_STD = 0.1", "INIT_STD = 0.2"),
    Change("Narrow random numbers", "Small ones disturb less.", "Pick INIT_STD = 0.05 for the model.",
           "model.py", "INIT_STD = 0.1", "INIT_STD = 0.05"),
    Change("Pairs", "Tiny batches mean many updates.", "BATCH_SIZE should equal 2.",
           "train.py", "BATCH_SIZE = 8 ", "BATCH_SIZE = 2 "),
    Change("Clean slate", "Nothing has to be unlearned.", "Begin at zero: no initial deviation at all.",
           "model.py", "INIT_STD = 0.1", "INIT_STD = 0.0"),
)  # fmt: skip
EPOCHS = (FIRST, SECOND, THIRD)


def proposal(changes: Sequence[Change]) -> dict[str, Any]:
    """The reply that has these ideas."""
    ideas = [
        {"title": one.title, "description": one.why, "code_changes": one.how, "hyperparameters": []} for one in changes
    ]
    return billed({"text": json.dumps({"ideas": ideas})}, PROPOSAL_TOKENS)


def episode(change: Change) -> list[dict[str, Any]]:
    """Edit, smoke test, submit."""
    edit = {"path": change.path, "old_str": change.old, "new_str": change.new}
    calls = [("edit_file", edit), ("smoke_test", {}), ("submit_run", {"message": change.title})]
    return [billed({"calls": [{"name": name, "arguments": values}]}, STEP_TOKENS) for name, values in calls]


def billed(reply: dict[str, Any], tokens: tuple[int, int]) -> dict[str, Any]:
    """The reply with its tokens."""
    return {**reply, "input_tokens": tokens[0], "output_tokens": tokens[1]}


def script_of(epochs: Sequence[Sequence[Change]], usd_a_token: float | None = None) -> dict[str, Any]:
    """Replies to the requests of a search: the ideas of an epoch go to a prompt that names one of the epoch before."""
    cases: list[dict[str, Any]] = []
    for number in reversed(range(len(epochs))):
        known = f"[\\s\\S]*{epochs[number - 1][0].title}" if number else ""
        cases.append({"match": f"You are a researcher{known}", "replies": [proposal(epochs[number])]})
    for change in (one for epoch in epochs for one in epoch):
        cases.append({"match": f"Idea:\\s+{change.title}\\b", "replies": episode(change)})
    for reply in (reply for case in cases for reply in case["replies"] if usd_a_token is not None):
        reply["cost_usd"] = (reply["input_tokens"] + reply["output_tokens"]) * usd_a_token
    return {"cases": cases}


def write_script(folder: Path, epochs: Sequence[Sequence[Change]] = EPOCHS, usd_a_token: float | None = None) -> Path:
    """The script in a file."""
    path = folder / "script.json"
    path.write_text(json.dumps(script_of(epochs, usd_a_token)))
    return path


def search(script: Path, runs_dir: Path, run: str, *flags: str, policy: str = "hill-climb") -> list[str]:
    """The command of one search: four ideas an epoch, three epochs, one slot, unless the flags say otherwise."""
    return [
        *COMMAND, "evolve", "--env", "toy", "--policy", policy, "--model", f"scripted/{script}",
        "--ideas", "4", "--epochs", "3", "--parallel", "1",
        "--runs-dir", str(runs_dir), "--run", run, *flags,
    ]  # fmt: skip


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """One thread for each training, so that two cores are enough."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **(extra or {})}


def run(argv: Sequence[str], extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run(argv, env=environment(extra), capture_output=True, text=True, check=False)


def lines_of(path: Path) -> list[Any]:
    """Lines of a file of JSON lines; none when it is not there."""
    return read_lines(path) if path.exists() else []


def decisions(run_dir: Path, kind: str = "") -> list[Any]:
    """The manager's decisions, all or of one kind."""
    found = lines_of(run_dir / "decisions.jsonl")
    return [line for line in found if not kind or line["type"] == kind]


def rows(run_dir: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a run's database says."""
    connection = sqlite3.connect(f"{(run_dir / 'xar.db').absolute().as_uri()}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@dataclass(frozen=True)
class Bills:
    """The tokens of a run by three independent records, its requests, and what the replies cost."""

    replies: int
    """Recorded: in the trajectories and the proposals."""
    replied_tokens: int
    replied_usd: float
    spend_tokens: int
    """By the table of spend."""
    requests: int
    """By the ledger."""
    settled: int
    ledger_tokens: int
    """Settled, and the worst case of what was never settled."""
    ledger_usd: float


def bills(run_dir: Path) -> Bills:
    """What a run has paid."""
    replies = [line["reply"] for path in (run_dir / "ideate").glob("*.jsonl") for line in lines_of(path)]
    for path in (run_dir / "impl").glob("*/trajectory.jsonl"):
        replies += [event["data"] for event in lines_of(path) if event["type"] == "llm_response"]
    spend = rows(run_dir, "SELECT sum(input_tokens + output_tokens) FROM spend WHERE kind = 'model'")
    booked: dict[int, Any] = {}
    ledger = lines_of(run_dir / "ledger.jsonl")
    for line in ledger:
        booked[line.get("reserve", line.get("settle"))] = line
    return Bills(
        replies=len(replies),
        replied_tokens=sum(one["usage"]["input_tokens"] + one["usage"]["output_tokens"] for one in replies),
        replied_usd=sum(one["cost_usd"] or 0.0 for one in replies),
        spend_tokens=int(spend[0][0] or 0),
        requests=len(booked),
        settled=sum("settle" in line for line in ledger),
        ledger_tokens=sum(line["tokens"] for line in booked.values()),
        ledger_usd=sum(line["usd"] for line in booked.values()),
    )


def evaluated_twice(run_dir: Path) -> list[str]:
    """Jobs with more than one evaluation, and ideas with more than one job of a split and seed."""
    by_job = rows(run_dir, "SELECT job_id FROM evaluations GROUP BY job_id HAVING count(*) > 1")
    same = "idea_id, json_extract(spec, '$.split'), json_extract(spec, '$.seed')"
    by_idea = rows(run_dir, f"SELECT idea_id FROM jobs GROUP BY {same} HAVING count(*) > 1")
    return [row[0] for row in (*by_job, *by_idea)]


def unfinished(run_dir: Path, n_ideas: int) -> str:
    """What a run lacks of so many ideas, each with one result; "" when it is whole."""
    proposed = [idea["text"] for line in decisions(run_dir, "proposal") for idea in line["ideas"]]
    ended = [line["idea_id"] for line in decisions(run_dir, "result")]
    if len(proposed) != n_ideas or len(set(ended)) != len(ended) or len(ended) != n_ideas:
        return f"{len(proposed)} ideas, {len(ended)} results of {len(set(ended))} for {n_ideas}"
    twice = evaluated_twice(run_dir)
    return f"evaluated twice: {twice}" if twice else ""
