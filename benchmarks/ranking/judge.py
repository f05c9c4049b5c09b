"""Whether three seeds put the ranking set in its order: drawn again and again from the seeds that were measured.

A draw takes three of a patch's seeds, without replacement, and is right under a rule when each patch has the verdict
that the rule expects, against the shipped baseline at its own compute, and the means of the patches of one tier are all
better than those of the next.

DECLARED was written down before the set was measured, from trials at other budgets. MEASURED was written after it: on
this preset leaving the warm-up out does harm, as much as SGD, and three times the learning rate ends well with some
seeds and badly with others, so that its verdict is chance and it has no place in an order.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xar_agent.envs.spec import Baseline, load_env
from xar_agent.jobs.scoring import baseline_at, prediction_half_width, verdict_of


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as right."""

    tiers: tuple[tuple[str, ...], ...]
    """Best first."""
    better: tuple[str, ...]
    same: tuple[str, ...]
    worse: tuple[str, ...]

    @property
    def verdicts(self) -> dict[str, str]:
        """Expected verdict of each patch of the set."""
        by_verdict = {"better": self.better, "within_noise": self.same, "worse": self.worse}
        return {name: verdict for verdict, names in by_verdict.items() for name in names}


DECLARED = Rule(
    tiers=(("muon", "smaller-batch"), ("lr-triple",), ("squared-relu",), ("no-warmup",), ("sgd",), ("lr-tenth",)),
    better=("muon", "smaller-batch", "lr-triple", "squared-relu"),
    same=("no-warmup",),
    worse=("sgd", "lr-tenth"),
)
MEASURED = Rule(
    tiers=(("muon",), ("smaller-batch",), ("squared-relu",), ("no-warmup", "sgd"), ("lr-tenth",)),
    better=("muon", "smaller-batch", "squared-relu"),
    same=(),
    worse=("no-warmup", "sgd", "lr-tenth"),
)
PATCHES = tuple(name for tier in DECLARED.tiers for name in tier)
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
    declared_right: float
    """Share of the draws."""
    measured_right: float
    about: str
    """When, where and at which load."""

    @property
    def right(self) -> bool:
        """The set comes out right often enough."""
        return self.measured_right >= REQUIRED


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
        if bad := [run for run in patch["runs"] if not run.get("valid", name == UNTOUCHED)]:
            raise ValueError(f"{name} at seed {bad[0]['seed']}: {bad[0]['reason']}")
        if name in PATCHES:
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
    n_declared = n_measured = 0
    seen: dict[str, dict[str, int]] = {name: {} for name in PATCHES}
    for _ in range(DRAWS):
        means = {name: statistics.fmean(draws.sample(values[name], DRAWN)) for name in PATCHES}
        verdicts = {name: verdict(baseline, mean, compute[name]) for name, mean in means.items()}
        for name, said in verdicts.items():
            seen[name][said] = seen[name].get(said, 0) + 1
        n_declared += is_right(DECLARED, means, verdicts)
        n_measured += is_right(MEASURED, means, verdicts)
    rows = tuple(row_of(name, values[name], baseline, compute[name], seen[name]) for name in PATCHES)
    about = f"{results['date'][:10]}, {results['cpu']} x{results['cores']}, load {results['load'][0]} while scoring"
    return Judged(rows, n_declared / DRAWS, n_measured / DRAWS, about)


def is_right(rule: Rule, means: dict[str, float], verdicts: dict[str, str]) -> bool:
    """Whether a draw is as the rule says."""
    return in_order(rule, means) and all(verdicts[name] == said for name, said in rule.verdicts.items())


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


def in_order(rule: Rule, means: dict[str, float]) -> bool:
    """Every patch of a tier is better than every patch of the next one."""
    return all(
        max(means[name] for name in tier) < min(means[name] for name in following)
        for tier, following in zip(rule.tiers, rule.tiers[1:], strict=False)
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
        "SEEDS": str(min(row.n for row in judged.rows)),
        "DECLARED": f"{judged.declared_right:.1%}",
        "MEASURED": f"{judged.measured_right:.1%}",
        "ABOUT": judged.about,
    }
    text = path.with_name("README.template.md").read_text()
    for name, value in shares.items():
        text = text.replace("{" + name + "}", value)
    path.write_text(text)
