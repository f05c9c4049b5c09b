"""Score a candidate on held-out text: loss in nats a token, and whether the model is causal and without memory.

    python evaluator.py '{"split": "val", "seed": 1, "rows": null, "settings": {...}, "training": {"seconds": null}}'

Talks to the host in frames on stdin and stdout (candidate.py). The host starts the workers and relays to them.

Settings: ``block`` (T), ``vocab`` (V), ``val_tokens``, ``smoke_rows``; ``noise_sd`` (nats, over seeds: sets how many
positions are audited and how far they may differ); ``batch_rows`` (64); ``reduce``: "worker" where logits are too many
for a pipe, so that the worker sends losses, which the prefix audit then holds it to; ``target_loss``: the metric is
then the minutes that training took to get there. One worker scores, on one device: the validation text and its size
are the same for any number of GPUs.

Checks, each with a pass or a reason. One that could not be made, or not to its end, is not listed:
- shape: the model loads and answers each batch with numbers of the right shape and type, for any 1..T tokens;
- finite: no NaN or infinity;
- normalised: each position's logits span a range in which float32 still resolves a loss to about 0.001 nats, so that
  the distribution that is normalised here is the one that the model states; losses of a worker are not below 0;
- prefix_audit, stateless: see audits.py;
- recall (where settings have ``recited_nats``, of losses that passed): no passages are known by heart; see audits.py;
- target: the loss is at ``target_loss`` or below.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))  # -P leaves it out

from audits import Check, n_cuts, prefix_audit, recall, rules_for, score, stateless  # noqa: E402
from candidate import Candidate, CheckFailed, Floats, Host, Ids  # noqa: E402

BATCH_ROWS = 64
LEAST_LOSS = 1e-9  # for 1 / loss


def load_rows(folder: Path, n_rows: int, length: int) -> tuple[Ids, float]:
    """Rows of length + 1 ids spread evenly over the split without overlap: (N, length + 1), and bytes a token."""
    meta = json.loads((folder / "meta.json").read_text())
    (path,) = folder.glob("*.bin")
    ids = np.fromfile(path, dtype="<u2")
    n_rows = min(n_rows, len(ids) // (length + 1))
    starts = np.arange(n_rows) * (len(ids) - length - 1) // max(1, n_rows - 1)
    return ids[starts[:, None] + np.arange(length + 1)].astype(np.int64), meta["bytes"] / meta["tokens"]


def figures(losses: Floats, bytes_per_token: float) -> dict[str, float]:
    """Everything measured by name, from losses (N, T) in nats."""
    loss = float(losses.mean())
    return {
        "val_loss": loss,
        "val_bpb": loss / math.log(2) / bytes_per_token,
        "val_tokens": losses.size,
        "inverse_loss": 1.0 / max(loss, LEAST_LOSS),
    }


def reach(loss: float, target: float) -> Check:
    """Whether the loss is low enough for the training time to count."""
    reason = "" if loss <= target else f"validation loss {loss:.4f} is above the target of {target:g}"
    return Check("target", not reason, reason, loss)


def run_checks(host: Host, request: dict[str, Any], rows: Ids) -> tuple[Floats | None, list[Check]]:
    """Score the rows, then audit the scores: losses (N, T) if there are any, and the checks made to their end."""
    settings, smoke = request["settings"], request["split"] == "smoke"
    reduce, batch_rows = settings.get("reduce") == "worker", settings.get("batch_rows", BATCH_ROWS)
    rules = rules_for(settings.get("noise_sd"), settings["vocab"], reduce=reduce)
    rng = np.random.default_rng(request["seed"])
    losses = None
    audits: list[Check] = []
    try:
        candidate = Candidate(host, "score", settings["vocab"], reduce=reduce)
        losses = score(candidate, rows, (batch_rows,))
        # A smoke test asks whether it works, and a worker costs seconds to start: there one worker answers everything.
        candidate = candidate if smoke else candidate.successor("prefix")
        cuts = 1 if smoke else n_cuts(rules, *losses.shape)
        audits.append(prefix_audit(candidate, rows, losses, rules, rng, cuts=cuts, batch_rows=batch_rows))
        candidate = candidate if smoke else candidate.successor("stateless")
        audits.append(stateless(candidate, rows, losses, rules, rng, batch_rows=batch_rows))
        candidate.stop()
        if "recited_nats" in settings and not smoke and all(audit.passed for audit in audits):
            audits.append(recall(losses, settings["recited_nats"]))
    except CheckFailed as failed:
        return losses, [*audits, Check(failed.name, False, str(failed))]
    answered = [Check("shape", True), Check("finite", True), Check("normalised", True, figure=candidate.largest_range)]
    return losses, [*answered, *audits]


def evaluate(host: Host, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result frame: metric null where there is none, every check that was made."""
    settings, smoke = request["settings"], request["split"] == "smoke"
    length = settings["block"]
    default = settings["smoke_rows"] if smoke else settings["val_tokens"] // length
    rows, bytes_per_token = load_rows(folder, request["rows"] or default, length)
    losses, checks = run_checks(host, request, rows)
    metrics = {} if losses is None else figures(losses, bytes_per_token)
    metric = "val_loss"
    if "target_loss" in settings and not smoke:  # a smoke test is far from any target
        metric = "minutes_to_target"
        if metrics:
            checks.append(reach(metrics["val_loss"], settings["target_loss"]))
            metrics |= {metric: request["training"]["seconds"] / 60.0} if checks[-1].passed else {}
    return {
        "op": "result",
        "metric": metrics.get(metric),
        "metrics": metrics,
        "checks": [check.as_json() for check in checks],
    }


def main() -> None:
    """One evaluation."""
    host = Host(sys.stdin.buffer, sys.stdout.buffer)
    host.send(evaluate(host, json.loads(sys.argv[1]), Path(os.environ["XAR_VAL"])))


if __name__ == "__main__":
    main()
