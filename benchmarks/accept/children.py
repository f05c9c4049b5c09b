"""Children that start from their parent's patch, and an epoch in which every idea fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toy_search import BROKEN, EPOCHS, Point, decisions, lines_of, run, search, unfinished, write_script

FAILING = (
    BROKEN,
    replace(BROKEN, title="Missing package", why="Arrays may be quicker.", how="Import a package that is not there.",
            old="import json\n", new="import json\nimport numpy_nowhere\n"),
    replace(BROKEN, title="Spelling", why="Names do not matter.", how="Call the optimiser by another name.",
            old="            update(model, gradient, lr)", new="            upgrade(model, gradient, lr)"),
)  # fmt: skip
REASONS = ("no such schedule", "numpy_nowhere", "upgrade")
AFTER = (FAILING, EPOCHS[2][:3])


def four_children(folder: Path) -> Point:
    """Four children of one parent show its patch in their diffs against the base."""
    script = write_script(folder, EPOCHS[:2])
    ended = run(search(script, folder, "r", "--epochs", "2"))
    ideas = [idea for line in decisions(folder / "r", "proposal") for idea in line["ideas"] if idea["epoch"] == 1]
    parents = {tuple(idea["parents"]) for idea in ideas}
    if ended.returncode != 0 or len(ideas) != 4 or len(parents) != 1 or len(next(iter(parents))) != 1:
        return False, f"exit {ended.returncode}, {len(ideas)} children of {parents}: {ended.stderr.strip()[-200:]}"
    (parent,) = next(iter(parents))
    wanted = added(folder / "r" / "impl" / parent / "patch.diff")
    made = [line["idea_id"] for line in decisions(folder / "r", "result")][-4:]
    patches = [added(folder / "r" / "impl" / idea_id / "patch.diff") for idea_id in made]
    right = [wanted < lines for lines in patches]
    own = [sorted(lines - wanted) for lines in patches]
    return bool(wanted) and all(right), f"{sum(right)} of 4 show {sorted(wanted)} beside their own {own}"


def added(patch: Path) -> set[str]:
    """Lines that a diff adds."""
    lines = patch.read_text().splitlines()
    return {line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++")}


def all_fail(folder: Path) -> Point:
    """An epoch where every idea fails goes on, and the next prompt holds the reasons."""
    script = write_script(folder, AFTER)
    ended = run(search(script, folder, "r", "--epochs", "2", "--ideas", "3", policy="paper"))
    results = decisions(folder / "r", "result")
    failed = [(line["failure"], line["reason"]) for line in results[:3] if line["failure"]]
    lacking = unfinished(folder / "r", 6)
    if ended.returncode != 0 or len(failed) != 3 or lacking:
        return False, f"exit {ended.returncode}, {lacking}, {failed}: {ended.stderr.strip()[-200:]}"
    asked = lines_of(folder / "r" / "ideate" / "proposal-0001.jsonl")
    prompt = "\n".join(str(message["content"]) for message in asked[0]["messages"])
    told = [reason for reason in REASONS if reason in prompt]
    valid = sum(line["mean"] is not None for line in results[3:])
    classes = ", ".join(kind for kind, _ in failed)
    return told == list(
        REASONS
    ), f"3 failures ({classes}), {len(told)} of 3 reasons in the next prompt; then {valid} of 3 valid"
