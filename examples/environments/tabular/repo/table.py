"""Read a table as prepare.py wrote it. Protected."""

import json
from pathlib import Path

import numpy as np


def read_table(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows, float32 (N, features), and labels, int64 (N,)."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    rows = np.fromfile(folder / "rows.f32", dtype="<f4").reshape(meta["rows"], meta["features"])
    return rows, np.fromfile(folder / "labels.u8", dtype=np.uint8).astype(np.int64)
