"""Twenty random budgets: none is exceeded, and the same command with more of it finishes all ideas."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from toy_search import EPOCHS, LARGER, Change, Point, bills, run, search, unfinished, write_script

SETTINGS = 20
USD_A_TOKEN = 2e-6
"""Of the scripted replies: 0.0009 USD a step, 0.0036 a proposal."""
IDEAS: Sequence[Sequence[Change]] = ((LARGER, EPOCHS[0][3]), EPOCHS[1][:2])
N_IDEAS = 4
IN_ALL = {"--budget-usd": (0.02, 0.06), "--budget-tokens": (10_000, 30_000), "--budget-hours": (3 / 3600, 20 / 3600)}
"""Range of each limit: from less than one request's worst case to more than the whole search may hold."""


def random_limits(rng: random.Random) -> dict[str, float]:
    """One to three limits."""
    names = rng.sample(sorted(IN_ALL), rng.choice([1, 1, 2, 3]))
    found = {name: rng.uniform(*IN_ALL[name]) for name in names}
    return {name: round(value) if name == "--budget-tokens" else round(value, 6) for name, value in found.items()}


def exceeded(run_dir: Path, limits: dict[str, float]) -> list[str]:
    """Which limits were passed, by the ledger and by the recorded replies."""
    paid = bills(run_dir)
    hours = json.loads((run_dir / "clock.json").read_text())["used_s"] / 3600
    used = {
        "--budget-usd": max(paid.ledger_usd, paid.replied_usd),
        "--budget-tokens": max(paid.ledger_tokens, paid.replied_tokens),
        "--budget-hours": hours,
    }
    return [f"{name} {limit:g}: {used[name]:g}" for name, limit in limits.items() if used[name] > limit * (1 + 1e-9)]


def one_setting(folder: Path, script: Path, number: int, rng: random.Random) -> tuple[str, str]:
    """Why the first command ended, and what was wrong."""
    limits = random_limits(rng)
    flags = [word for name, value in limits.items() for word in (name, f"{value:.6f}".rstrip("0").rstrip("."))]
    epochs, ideas = rng.choice([("2", "2"), ("1", "2")])
    plan = ["--epochs", epochs, "--ideas", ideas, "--parallel", rng.choice(["1", "2"])]
    name = f"b{number}"
    ended = run(search(script, folder, name, *plan, *flags, "--json"))
    if ended.returncode not in (0, 1) or '"stopped":' not in ended.stdout:
        return "", f"{flags}: exit {ended.returncode}, {ended.stderr.strip()[-200:]}"
    stopped = json.loads(ended.stdout)["stopped"] or ""
    wrong = exceeded(folder / name, limits)
    again = run(search(script, folder, name, "--epochs", "2", "--ideas", ideas, "--parallel", "2"))
    lacking = unfinished(folder / name, N_IDEAS)
    if again.returncode != 0 or lacking:
        wrong.append(f"not finished: exit {again.returncode}, {lacking or again.stderr.strip()[-200:]}")
    return kind_of(stopped), "; ".join([f"{flags} {' '.join(plan)}", *wrong]) if wrong else ""


def kind_of(stopped: str) -> str:
    """The limit that ended it."""
    return next((word for word in ("USD", "tokens", "hours") if word in stopped), "nothing")


def budgets(folder: Path, seed: int = 20) -> Point:
    """The point; GPU-hours cannot bind where there is no GPU, so that a landscape's test stands for them."""
    script = write_script(folder, IDEAS, USD_A_TOKEN)
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    wrong = []
    for number in range(SETTINGS):
        end, problem = one_setting(folder, script, number, rng)
        ends[end] += 1
        wrong += [problem] if problem else []
    how = ", ".join(f"{name} {count}" for name, count in ends.most_common())
    figure = f"{SETTINGS} settings, the first command was ended by: {how}"
    return not wrong, f"{figure}; {'; '.join(wrong) or 'none exceeded, each finished by a second command'}"
