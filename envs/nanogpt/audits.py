"""Whether losses are those of a causal model without memory: the audits, and what they can and cannot see.

What a first pass over whole rows has given is known and final when the audits begin, each in a fresh worker.

- prefix_audit: rows are cut after positions that nobody could foresee, and the loss there must be what it was with the
  rest of the row in view. Cuts are stratified: K a row, spread over it, each position equally often. Shorter prefixes
  come first over all rows, so a worker with a memory has never seen what follows. It does not matter when or how a
  model looks ahead, nor whether a worker computes losses at all or makes them up from the targets: a loss that is not
  a function of its prefix stands there already, and the prefix cannot give it again.
- stateless: a quarter of the rows in another order and in batches of other sizes. The first call of the fresh worker
  takes rows that came late in the first pass, the last call rows that came first there: what calls leave behind, be it
  small and soon saturated, shows as a difference between the cold and the warm losses of the same rows.

A third check needs no worker. recall: text that was smuggled in, whatever the cipher, shows as runs of 12 tokens that
a model hardly has to guess. Where the setting ``recited_nats`` says what no honest model reaches, at most 1 position in
2000 may lie in a run with a lower mean loss. Passages that are shorter, or deliberately half known, are not seen.

Differences d = loss again - loss known, in nats a position, are judged by four rules. With sd the noise of a run:

- gross: no |d| above 2 nats; rounding does not do that.
- mean: |mean d| up to sd / 4 (0.005 where no sd is given).
- median: of |d|, up to 0.03: bfloat16 was at 0.009 with half of all its sums rounded anew, as kernels may that differ
  with the shape of a batch.
- changed: |d| above 0.05 + 2 % of the loss (twice that where the worker reduces) at up to 1 % of positions.

Power. A leak or a lie that lowers the loss by G nats on average, by g at a share G / g of the positions, is hit at a
number of the n audited positions that is Poisson with mean n G / g. n is AUDIT_NATS / sd, so 80 / g for one sd:
- from g = 2 nats on, the gross rule alone misses exp(-80 / g): 7e-9 at the mean loss of preset cpu (4.25), 7e-4 at 11
  nats, the mean of the highest losses that add up to one sd there, 7e-3 at 16 nats;
- below 2 nats, the mean rule sees about 80 nats where 20 are allowed, z = 60 / sqrt(80 g) >= 4.7: it misses < 1e-5.
At half an sd these are exp(-40 / g) and z >= 2.2; a quarter of an sd may pass where it is spread thin. What cannot be
seen is worth less than sd / 4 and decides nothing. benchmarks/audit measures all this, honest models included. A smoke
test has one cut a row and proves nothing.

Refused although nothing leaks: what depends on T or B as a number, such as mixture-of-experts capacity as a share of
the batch. A capacity is fair when a position's drop follows from its own row up to there: a limit counted along the
row, or none. Dropout must be off. Windows, recurrences, state spaces, experts with such a limit, bfloat16 pass.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from candidate import Floats, Ids

AUDIT_NATS = 80.0
DEFAULT_CUTS = 4  # a row, where no noise_sd says how many are needed
MAX_AUDIT_BYTES = 4 << 30  # of logits through the pipe
GROSS_NATS = 2.0
MEAN_SHARE = 0.25  # of the noise of a run
DEFAULT_MEAN_NATS = 0.005
MEDIAN_NATS = 0.03
CHANGED_NATS, CHANGED_RELATIVE, CHANGED_SHARE = 0.05, 0.02, 0.01
STATELESS_SHARE = 4  # one row in four is scored again
RUN_TOKENS, RECALLED_SHARE = 12, 0.0005


class Scorer(Protocol):
    """What the audits ask of a worker."""

    def losses(self, rows: Ids) -> Floats:
        """Rows (B, T + 1) to losses (B, T)."""

    def last_losses(self, prefixes: Ids, targets: Ids) -> Floats:
        """Prefixes (B, t) and what follows (B,) to losses (B,)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    reason: str = ""
    figure: float | None = None
    """Largest difference in nats for prefix_audit and stateless, largest range for normalised, the loss for target."""

    def as_json(self) -> dict[str, Any]:
        """As the host expects it."""
        return {"name": self.name, "passed": self.passed, "reason": self.reason, "figure": self.figure}


@dataclass(frozen=True, slots=True)
class Rules:
    """How far losses may differ, and how many are looked at."""

    mean_nats: float
    changed_scale: float
    """Multiplies what a position may differ by before it counts as changed."""
    wanted: int | None
    """Positions to audit; None: DEFAULT_CUTS a row."""
    most: int
    """Positions whose logits fit through the pipe."""


def rules_for(noise_sd: float | None, vocab: int, *, reduce: bool) -> Rules:
    """The rules of a preset: its noise in nats (sd over seeds), its vocabulary, and whether the worker reduces."""
    return Rules(
        mean_nats=MEAN_SHARE * noise_sd if noise_sd else DEFAULT_MEAN_NATS,
        changed_scale=2.0 if reduce else 1.0,
        wanted=int(np.ceil(AUDIT_NATS / noise_sd)) if noise_sd else None,
        most=MAX_AUDIT_BYTES // (vocab * (2 if reduce else 4)),
    )


def judge(rules: Rules, known: Floats, again: Floats) -> str:
    """What is wrong between losses that should agree, each (n,); empty when they do."""
    d = again - known
    worst = int(np.abs(d).argmax())
    gross = int((np.abs(d) > GROSS_NATS).sum())
    mean, median = float(d.mean()), float(np.median(np.abs(d)))
    changed = float((np.abs(d) > rules.changed_scale * (CHANGED_NATS + CHANGED_RELATIVE * known)).mean())
    broken = [
        gross > 0,
        abs(mean) > rules.mean_nats,
        median > MEDIAN_NATS,
        changed > CHANGED_SHARE,
    ]
    if not any(broken):
        return ""
    return (
        f"mean {mean:+.4f} nats (allowed {rules.mean_nats:.4f}), median {median:.4f} ({MEDIAN_NATS}), "
        f"{changed:.1%} of {len(d)} positions changed ({CHANGED_SHARE:.0%}), "
        f"{gross} by over {GROSS_NATS:.0f} nats (0); the largest from {known[worst]:.3f} to {again[worst]:.3f}"
    )


def draw_cuts(n_rows: int, length: int, cuts: int, rng: np.random.Generator) -> Ids:
    """Positions (n_rows, cuts), ascending in each row: one in each of ``cuts`` strata of the row.

    Within a stratum each position is drawn in the same number of rows, give or take one.
    """
    strata = np.array_split(np.arange(length), cuts)
    columns = []
    for stratum in strata:
        rounds = -(-n_rows // len(stratum))
        drawn = np.concatenate([rng.permutation(stratum) for _ in range(rounds)])[:n_rows]
        columns.append(rng.permutation(drawn))
    return np.stack(columns, axis=1).astype(np.int64)


def n_cuts(rules: Rules, n_rows: int, length: int) -> int:
    """Cuts a row: as many as the power needs and the pipe bears."""
    wanted = -(-rules.wanted // n_rows) if rules.wanted else DEFAULT_CUTS
    return max(1, min(wanted, rules.most // n_rows, length))


def prefix_audit(
    fresh: Scorer, rows: Ids, losses: Floats, rules: Rules, rng: np.random.Generator, *, cuts: int, batch_rows: int
) -> Check:
    """Cut each row ``cuts`` times: rows (N, T + 1) with known losses (N, T)."""
    n, length = losses.shape
    at = draw_cuts(n, length, cuts, rng)
    again = np.empty(at.shape)
    for t in np.unique(at):
        chosen = np.argwhere(at == t)
        rng.shuffle(chosen)  # rows of one call come from all over the text
        for part in np.array_split(chosen, -(-len(chosen) // batch_rows)):
            i = part[:, 0]
            again[i, part[:, 1]] = fresh.last_losses(rows[i, : t + 1], rows[i, t + 1])
    known = np.take_along_axis(losses, at, axis=1)
    wrong = judge(rules, known.ravel(), again.ravel())
    blame = "losses change when the tokens that follow are cut off; logits at t may depend on tokens 0..t only"
    return Check("prefix_audit", not wrong, wrong and f"{blame}: {wrong}", float(np.abs(again - known).max()))


def stateless(
    fresh: Scorer, rows: Ids, losses: Floats, rules: Rules, rng: np.random.Generator, *, batch_rows: int
) -> Check:
    """Score a part of the rows again, in other company: rows (N, T + 1) with losses (N, T) from calls of batch_rows."""
    n_early = min(batch_rows, len(rows))
    late = rng.permutation(np.arange(n_early, len(rows)))[: -(-len(rows) // STATELESS_SHARE)]
    order = np.concatenate([late, rng.permutation(n_early)])
    sizes = (-(-5 * batch_rows // 8), batch_rows // 4 + 1, batch_rows, -(-batch_rows // 12))  # unlike the first pass
    again = score(fresh, rows[order], sizes)
    d = again - losses[order]
    n_cold = min(sizes[0], len(late))
    wrong = judge(rules, losses[order].ravel(), again.ravel())
    if len(late) and not wrong:
        colder = float(np.concatenate([d[:n_cold], -d[len(late) :]]).mean())
        if abs(colder) > rules.mean_nats:
            wrong = f"{colder:+.4f} nats in a worker's first call against later ones (allowed {rules.mean_nats:.4f})"
    blame = "losses change with the order and grouping of rows (memory between calls, mixing in a batch, or dropout)"
    return Check("stateless", not wrong, wrong and f"{blame}: {wrong}", float(np.abs(d).max()))


def score(worker: Scorer, rows: Ids, batches: tuple[int, ...]) -> Floats:
    """Loss of each token (N, T), taken in batches whose sizes cycle through ``batches``."""
    losses: list[Floats] = []
    start = 0
    while start < len(rows):
        batch = rows[start : start + batches[len(losses) % len(batches)]]
        losses.append(worker.losses(batch))
        start += len(batch)
    return np.concatenate(losses)


def recall(losses: Floats, recited_nats: float) -> Check:
    """Whether the model knows passages by heart, from audited losses (N, T) in nats."""
    runs = np.lib.stride_tricks.sliding_window_view(losses, min(RUN_TOKENS, losses.shape[1]), axis=1)
    known = np.zeros(losses.shape, dtype=bool)
    for row, start in np.argwhere(runs.mean(-1) < recited_nats):
        known[row, start : start + RUN_TOKENS] = True
    share = float(known.mean())
    found = f"{share:.2%} of the tokens lie in runs of {RUN_TOKENS} with a mean loss under {recited_nats:g} nats"
    reason = f"{found} (allowed {RECALLED_SHARE:.2%}): the model knows passages of the held-out text by heart"
    return Check("recall", share <= RECALLED_SHARE, reason if share > RECALLED_SHARE else "", share)
