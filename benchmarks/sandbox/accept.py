"""What our back ends have to hold, judged from a recorded measurement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hostile import CASES, FLOOD_MIB
from peers import PEERS, pins

MUST_HOLD = ("docker", "bubblewrap", "process")
MAX_OVERSHOOT_S = 1.0
MAX_GROWTH_MIB = 32.0
MIN_N = 100
ENDS_BY_ITSELF = "grandchild_with_pipe"
"""The command of this case has ended before its deadline; in all others a time-out has to be told."""

Point = tuple[bool, str, str]
"""Passed, what is promised, the figure."""


def check(result: dict[str, Any]) -> int:
    """Print PASS or FAIL for each figure; exit code 1 when one fails."""
    points = [*about_the_run(result)]
    for backend in MUST_HOLD:
        points += about_backend(backend, result["contenders"].get(backend, {"unavailable": "not measured"}))
    for passed, promise, figure in points:
        print(f"{'PASS' if passed else 'FAIL'}  {promise}: {figure}", flush=True)
    return 0 if all(passed for passed, _, _ in points) else 1


def about_the_run(result: dict[str, Any]) -> Iterator[Point]:
    """All in one run, often enough, with the load."""
    measured = {name: one for name, one in result["contenders"].items() if "unavailable" not in one}
    fewest = min((len(one["exec_ms"]) for one in measured.values()), default=0)
    yield fewest >= MIN_N, "exec latency over 100 commands or more", f"{fewest} each, {len(measured)} contenders"
    peers = {name: one for name, one in result["contenders"].items() if not one["ours"]}
    said = "; ".join(f"{name}: {one.get('unavailable') or one['about']}" for name, one in peers.items())
    pinned = result["settings"]["pins"] == list(pins().values())
    yield pinned and set(peers) == set(PEERS), "the three peers in the same run, or why not", said or "none"
    loads = [load[0] for load in result["load"].values()]
    told = result["about"]
    yield bool(loads), "load stated", f"{min(loads)} to {max(loads)} on {told['cores']} cores, {told['date']}"


def about_backend(name: str, figures: dict[str, Any]) -> Iterator[Point]:
    """Survivors, overshoot, the state afterwards, memory."""
    if "unavailable" in figures:
        yield False, name, figures["unavailable"]
        return
    tries = [(case, one) for case in CASES for one in figures["cases"].get(case, [])]
    complete = all(figures["cases"].get(case) for case in CASES)
    survivors = sum(one["survivors"] for _, one in tries)
    yield complete and not survivors, f"{name}: no survivor", f"{survivors} after {len(tries)} hostile commands"
    worst = max((one["overshoot_s"] for _, one in tries), default=0.0)
    in_time = complete and worst < MAX_OVERSHOOT_S and not any(one["hung"] or one["error"] for _, one in tries)
    yield in_time, f"{name}: overshoot under {MAX_OVERSHOOT_S:.0f} s", f"at most {worst:.2f} s"
    right = sum(one["next_right"] and one["timed_out"] == (case != ENDS_BY_ITSELF) for case, one in tries)
    yield right == len(tries), f"{name}: time-outs told, next command right", f"{right} of {len(tries)}"
    flood = figures["memory"]
    most = max(flood["growth_mib"], flood["children_mib"])
    whole = (flood["n_bytes"] or 0) >= FLOOD_MIB << 20 and not flood["error"]
    words = f"grew by {flood['growth_mib']:.1f} MiB, supervisor {flood['children_mib']:.1f} MiB in all"
    yield whole and most < MAX_GROWTH_MIB, f"{name}: memory flat at {FLOOD_MIB} MB of output", words
