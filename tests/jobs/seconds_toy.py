"""The toy environment with seconds of its token stream as its budget; for tests of that clock."""

from __future__ import annotations

from pathlib import Path

BUDGET_S = 2
CHANGES = {
    "budget = 4096": f"budget = {BUDGET_S}",
    'clock = "tokens"': 'clock = "seconds"',
    "cpu_cap_s = 2.0\n": "",
    "smoke_tokens = 2048": "smoke_seconds = 1",
}


def by_seconds(folder: Path, changes: dict[str, str] | None = None) -> Path:
    """Change a copy of the toy environment: its clock, and what else is to be other text in env.toml."""
    path = folder / "env.toml"
    text = path.read_text()
    for old, new in {**CHANGES, **(changes or {})}.items():
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    program = folder / "repo" / "train.py"
    source = program.read_text()
    assert "stream.budget - stream.left" in source
    program.write_text(source.replace("stream.budget - stream.left", "step * BATCH_SIZE * BLOCK_SIZE"))
    return folder
