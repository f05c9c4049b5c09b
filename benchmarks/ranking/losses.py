"""Validation losses of many checkpoints of one patch, by the evaluator's own functions in one process, without audits.

    python losses.py CHECKOUT VALIDATION_FOLDER CHECKPOINT... -> one JSON list

For patches of ours only: the patched ``model.py`` runs here, outside any sandbox. ``measure.py`` compares some of the
losses with those of the real evaluation, to the last bit.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xar_agent.envs.spec import load_env


class InProcess:
    """What ``evaluator.score`` asks of a worker, answered here."""

    def __init__(self, model: Any, token_losses: Any) -> None:
        self._model = model
        self._token_losses = token_losses

    def losses(self, rows: Any) -> Any:
        """Rows (B, T + 1) to losses (B, T) in nats."""
        with torch.no_grad():
            logits = self._model(torch.from_numpy(rows[:, :-1].copy())).float().numpy()
        return self._token_losses(np.ascontiguousarray(logits), rows[:, 1:])


def main(checkout: str, validation: str, *checkpoints: str) -> None:
    """Print the mean loss of each checkpoint."""
    torch.set_num_threads(1)
    env = load_env("nanogpt")
    settings = env.preset("cpu").settings
    sys.path.append(str(env.folder))
    evaluator: Any = importlib.import_module("evaluator")
    candidate: Any = importlib.import_module("candidate")
    sys.path.append(checkout)
    model: Any = importlib.import_module("model")
    n_rows = settings["val_tokens"] // settings["block"]
    rows, _ = evaluator.load_rows(Path(validation), n_rows, settings["block"])
    found = []
    for path in checkpoints:
        scorer = InProcess(model.load(path), candidate.token_losses)
        found.append(float(evaluator.score(scorer, rows, (evaluator.BATCH_ROWS,)).mean()))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
