"""README.md of this folder from results.json: python benchmarks/audit/table.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = """# What do the audits of nanogpt see?

    python benchmarks/audit/losses.py WORKSPACE VAL L.npy     the losses of a trained model
    python benchmarks/audit/measure.py --losses L.npy         results.json
    python benchmarks/audit/table.py                          this page

The evaluator's own audits (`envs/nanogpt/audits.py`) over tables of losses: honest ones for prefixes, leaky ones for
whole rows. Each audit has its own secret seed and its own leak; sizes are in sd of a run's noise. Share of {audits}
audits that refused, preset `cpu` (mean loss {mean_loss:.3f}, sd 0.01375 nats, 6,144 audited positions of 98,304),
measured on {date} on {cpu}:

"""


def percent(share: float) -> str:
    """``99 %``."""
    return f"{100 * share:.4g} %"


def table(found: dict[str, dict[str, float]]) -> str:
    """Leak by size."""
    sizes = list(next(iter(found.values())))
    lines = [f"| leak | {' | '.join(f'{size} sd' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(percent(row[size]) for size in sizes)} |" for name, row in found.items()]
    return "\n".join(lines) + "\n"


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    about = found["about"]
    text = HEAD.format(audits=found["audits"], mean_loss=found["mean_loss"], date=about["date"][:10], cpu=about["cpu"])
    text += table({**found["cpu"], "memory after the first call (`stateless`)": found["warm"]})
    text += (
        f"\nHonest models accused, of {found['audits']} audits each, by the rounding that they were seen to have:\n\n"
    )
    text += "| rounding | prefix_audit | stateless |\n|---|---|---|\n"
    for name, row in found["accused"].items():
        text += f"| {name} | {row['prefix_audit']} | {row['stateless']} |\n"
    if found["gpu"]:
        text += (
            "\nAt the size of the GPU presets: 10,240 rows of 1,024, losses drawn from those above, sd 0.003 nats,\n"
        )
        text += "30,720 audited positions, 3.1 GB of logits. Losses made up by the worker, one leak of each kind, "
        text += f"{found['gpu_audits']} audits each;\nhonest ones accused: {found['gpu_accused']}.\n\n"
        text += table(found["gpu"])
    return text


if __name__ == "__main__":
    (HERE / "README.md").write_text(page(json.loads((HERE / "results.json").read_text())))
