"""Whether three seeds put the ranking set in its order: drawn again and again from the seeds that were measured.

The rule, written down before the set was measured. Known from earlier trials at other budgets, best first: Muon and
batches of 8; three times the learning rate; squared ReLU; no warm-up (no difference that matters); SGD; a tenth of the
learning rate. A draw takes three of a patch's seeds, without replacement, and is right when

- each patch has the verdict of EXPECTED against the shipped baseline, at its own compute, and
- the means of the patches of one tier are all better than those of the next.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xar_agent.envs.spec import Baseline, load_env
from xar_agent.jobs.scoring import baseline_at, prediction_half_width, verdict_of

TIERS = (("muon", "smaller-batch"), ("lr-triple",), ("squared-relu",), ("no-warmup",), ("sgd",), ("lr-tenth",))
BETTER, SAME, WORSE = ("muon", "smaller-batch", "lr-triple", "squared-relu"), ("no-warmup",), ("sgd", "lr-tenth")
EXPECTED = {**dict.fromkeys(BETTER, "better"), **dict.fromkeys(SAME, "within_noise"), **dict.fromkeys(WORSE, "worse")}
UNTOUCHED = "untouched"
DRAWN, DRAWS, DRAW_SEED = 3, 20_000, 20_261_123
REQUIRED = 0.95


@dataclass(frozen=True, slots=True)
class Row:
    """One patch over all its seeds."""

    name: str
    n: int
    mean: float
    sd: float
    delta: float
    """Against the baseline at the patch's compute, in nats."""
    compute: float
    """CPU seconds over those of the untouched code, medians."""
    verdicts: dict[str, float]
    """Share of the draws."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the draws say."""

    rows: tuple[Row, ...]
    order_right: float
    """Share of the draws."""
    verdicts_right: float
    both_right: float
    about: str
    """When, where and at which load."""

    @property
    def right(self) -> bool:
        """The set comes out right often enough."""
        return self.both_right >= REQUIRED


def values_of(results: dict[str, Any]) -> dict[str, list[float]]:
    """Scores by patch; a seed without a valid score is an error.

    Raises:
        ValueError: a run is not valid, or the results are of other files than those of now.
    """
    env = load_env("nanogpt")
    if (results["env_version"], results["evaluator_version"]) != (env.version, env.evaluator_version):
        raise ValueError("the results are of another version of the environment: measure again")
    found: dict[str, list[float]] = {}
    for name, patch in results["patches"].items():
        if bad := [run for run in patch["runs"] if not run["valid"]]:
            raise ValueError(f"{name} at seed {bad[0]['seed']}: {bad[0]['reason']}")
        found[name] = [run["value"] for run in patch["runs"]]
    return found


def judge(results: dict[str, Any]) -> Judged:
    """Draw seeds and count."""
    values = values_of(results)
    baseline = load_env("nanogpt").shipped_baseline("cpu")
    if baseline is None:
        raise ValueError("nanogpt has no shipped baseline for preset cpu")
    compute = compute_of(results)
    draws = random.Random(DRAW_SEED)
    n_order = n_verdicts = n_both = 0
    seen: dict[str, dict[str, int]] = {name: {} for name in EXPECTED}
    for _ in range(DRAWS):
        means = {name: statistics.fmean(draws.sample(values[name], DRAWN)) for name in EXPECTED}
        verdicts = {name: verdict(baseline, mean, compute[name]) for name, mean in means.items()}
        for name, said in verdicts.items():
            seen[name][said] = seen[name].get(said, 0) + 1
        order, right = in_order(means), verdicts == EXPECTED
        n_order, n_verdicts, n_both = n_order + order, n_verdicts + right, n_both + (order and right)
    rows = tuple(row_of(name, values[name], baseline, compute[name], seen[name]) for tier in TIERS for name in tier)
    about = f"{results['date'][:10]}, {results['cpu']} x{results['cores']}, load {results['load'][0]} while scoring"
    return Judged(rows, n_order / DRAWS, n_verdicts / DRAWS, n_both / DRAWS, about)


def compute_of(results: dict[str, Any]) -> dict[str, float]:
    """Compute of each patch: the median over seeds of its CPU seconds over the untouched code's at the same seed."""
    runs = {name: {run["seed"]: run["cpu_s"] for run in patch["runs"]} for name, patch in results["patches"].items()}
    unit = runs[UNTOUCHED]
    return {
        name: statistics.median(cpu_s / unit[seed] for seed, cpu_s in of.items() if seed in unit)
        for name, of in runs.items()
    }


def verdict(baseline: Baseline, mean: float, compute: float) -> str:
    """As ``xar-agent evaluate --seeds 3`` would say."""
    expected = baseline_at(baseline, compute)
    return verdict_of(mean - expected.mean, prediction_half_width(baseline, DRAWN, expected.inverse_n), "min")


def in_order(means: dict[str, float]) -> bool:
    """Every patch of a tier is better than every patch of the next one."""
    return all(
        max(means[name] for name in tier) < min(means[name] for name in following)
        for tier, following in zip(TIERS, TIERS[1:], strict=False)
    )


def row_of(name: str, values: list[float], baseline: Baseline, compute: float, seen: dict[str, int]) -> Row:
    """The table's line of one patch."""
    mean = statistics.fmean(values)
    delta = mean - baseline_at(baseline, compute).mean
    shares = {said: n / DRAWS for said, n in sorted(seen.items(), key=lambda item: -item[1])}
    return Row(name, len(values), mean, statistics.stdev(values), delta, compute, shares)


def write_table(judged: Judged, path: Path) -> None:
    """README.md: the text of README.template.md with the figures."""
    lines = [
        "| patch | n | val_loss | sd | against the baseline | compute | verdict with three seeds |",
        "|" + "---|" * 7,
    ]
    for row in judged.rows:
        said = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in row.verdicts.items())
        figures = f"{row.n} | {row.mean:.4f} | {row.sd:.4f} | {row.delta:+.4f} | {row.compute:.2f}x"
        lines.append(f"| {row.name} | {figures} | {said} |")
    shares = {
        "TABLE": "\n".join(lines),
        "ORDER": f"{judged.order_right:.1%}",
        "VERDICTS": f"{judged.verdicts_right:.1%}",
        "BOTH": f"{judged.both_right:.1%}",
        "ABOUT": judged.about,
    }
    text = path.with_name("README.template.md").read_text()
    for name, value in shares.items():
        text = text.replace("{" + name + "}", value)
    path.write_text(text)
