"""The losses of a trained model of nanogpt's preset cpu, for measure.py.

python benchmarks/audit/losses.py WORKSPACE VAL OUT.npy     (needs torch; a few seconds)

WORKSPACE: a repository after training, with model.py and out/checkpoint.pt. VAL: the folder of the validation split.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "envs" / "nanogpt"))
from candidate import token_losses  # noqa: E402
from evaluator import load_rows  # noqa: E402

ROWS, LENGTH, BATCH_ROWS = 1536, 64, 64


def main() -> None:
    """Score every row once."""
    workspace, val, out = map(Path, sys.argv[1:])
    sys.path.append(str(workspace))
    torch.set_num_threads(1)
    f = importlib.import_module("model").load(str(workspace / "out" / "checkpoint.pt"))
    rows, _ = load_rows(val, ROWS, LENGTH)
    with torch.no_grad():
        losses = [
            token_losses(f(torch.from_numpy(batch[:, :-1].copy())).float().numpy(), batch[:, 1:])
            for batch in np.array_split(rows, len(rows) // BATCH_ROWS)
        ]
    np.save(out, np.concatenate(losses))


if __name__ == "__main__":
    main()
