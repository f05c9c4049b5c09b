"""Have the embedded model carry out stated ideas, and check each result by what the edited code does.

    python benchmarks/ideas20/run.py [ideas.json|wordings.json] [--only CHECK ...] [--model M]

Each idea goes through the product's own loop and smoke test; nothing is trained. Rows are written as they come, so that
an interrupted run goes on where it stopped; `results-NAME.json` and `results-NAME.md` lie beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import about_now, load_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package

from xar_agent import prompts  # noqa: E402
from xar_agent.agent.choose import choose_model, open_model  # noqa: E402
from xar_agent.agent.guided_prompts import recipes_for  # noqa: E402
from xar_agent.agent.implement import implement  # noqa: E402
from xar_agent.agent.limits import EpisodeLimits  # noqa: E402
from xar_agent.agent.local_files import known_model  # noqa: E402
from xar_agent.agent.messages import ChatModel  # noqa: E402
from xar_agent.agent.types import Idea, Implementation  # noqa: E402
from xar_agent.envs.spec import load_env  # noqa: E402
from xar_agent.jobs.bench import Bench, open_bench  # noqa: E402

ENV, PRESET = "nanogpt", "cpu"
CHECK_TIMEOUT_S = 600.0
Row = dict[str, Any]


def carry_out(entry: dict[str, str], bench: Bench, model: ChatModel, folder: Path) -> Row:
    """One idea: its episode, and the judgement on the tree that it left."""
    started = time.monotonic()
    made = implement(
        Idea(entry["text"], ENV), bench, model, limits=EpisodeLimits(max_steps=12), episode_dir=folder, submit=False
    )
    wall_s = time.monotonic() - started
    judged = judge(entry["check"], bench, made) if made.outcome == "submitted" else {"right": False, "reason": ""}
    return {
        **entry,
        "right": judged["right"],
        "reason": judged["reason"] or ("" if judged["right"] else made.exit_reason),
        "outcome": made.outcome,
        "steps": made.steps,
        "input_tokens": made.usage.input_tokens,
        "output_tokens": made.usage.output_tokens,
        "wall_s": round(wall_s, 1),
        "load": load_now()[0],
        "recipe_shown": bool(recipes_for(entry["text"])),
        "diff": made.patch.diff,
    }


def judge(check: str, bench: Bench, made: Implementation) -> dict[str, Any]:
    """What the idea's check says, in a process of its own that has torch."""
    with bench.scratch_folder("judge") as folder:
        edited = bench.checkout(made.tree, folder)
        command = [bench.python, str(HERE / "checks.py"), check, str(edited), str(bench.env.repo)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, cwd=folder, check=False)
    if done.returncode != 0:
        return {"right": False, "reason": f"the check could not run: {done.stderr.strip().splitlines()[-1]}"}
    verdict: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return verdict


def table(rows: list[Row], about: dict[str, Any]) -> str:
    """The results as Markdown."""
    right = Counter(row["class"] for row in rows if row["right"])
    every = Counter(row["class"] for row in rows)
    head = ", ".join(f"{name} {right[name]} of {n}" for name, n in every.items())
    lines = [
        f"**{sum(right.values())} of {len(rows)} right** ({head}). Greedy decoding, one try each.",
        "",
        f"{about['date'][:10]}, {about['cpu']}, {about['cores']} cores, {about['threads']} model thread(s); "
        f"model {about['model']}, sha256 `{about['model_sha256'][:16]}...`; times depend on the load beside it.",
        "",
        "| idea | class | recipe | right | outcome | steps | tokens in / out | s | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tokens = f"{row['input_tokens']} / {row['output_tokens']}"
        cells = [row["text"], row["class"], "yes" if row["recipe_shown"] else "no", "yes" if row["right"] else "**no**"]
        cells += [row["outcome"], str(row["steps"]), tokens, f"{row['wall_s']:.0f}", f"{row['load']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    failures = [row for row in rows if not row["right"]]
    lines += ["", "What went wrong:", ""] if failures else []
    lines += [f"- {row['text']} {row['reason']}" for row in failures]
    return "\n".join(lines) + "\n"


def write(rows: list[Row], about: dict[str, Any], name: str) -> None:
    """Both forms of the results."""
    body = {"about": about, "right": sum(row["right"] for row in rows), "n": len(rows), "rows": rows}
    (HERE / f"results-{name}.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    (HERE / f"results-{name}.md").write_text(table(rows, about))


def main() -> None:
    """Run what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", default="ideas.json")
    parser.add_argument("--only", nargs="*", help="names of checks")
    parser.add_argument("--model", default=None)
    arguments = parser.parse_args()
    entries = json.loads((HERE / arguments.file).read_text())
    name = Path(arguments.file).stem
    rows_path = HERE / f"rows-{name}.jsonl"
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()] if rows_path.exists() else []
    choice = choose_model(arguments.model, environ={} if arguments.model is None else None)
    about = {**about_now(), "model": choice.name, "model_sha256": "", "threads": 0, "prompts": prompts.digests()}
    if choice.kind == "local":
        from xar_agent.agent.local_server import default_threads

        about |= {"model_sha256": known_model(choice.name).sha256, "threads": default_threads()}
    model = open_model(choice)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = open_bench(load_env(ENV), PRESET, "auto", Path(folder))
            about |= {"env_version": bench.env.version, "evaluator_version": bench.env.evaluator_version}
            for number, entry in enumerate(entries):
                if entry["text"] in {row["text"] for row in rows} or (
                    arguments.only and entry["check"] not in arguments.only
                ):
                    continue
                row = carry_out(entry, bench, model, Path(folder) / f"episode-{number}")
                rows.append(row)
                with rows_path.open("a") as file:
                    print(json.dumps(row, ensure_ascii=False), file=file)
                print("right" if row["right"] else f"WRONG ({row['reason']})", f"{row['wall_s']:.0f} s", row["text"])
    finally:
        model.close()
    order = [entry["text"] for entry in entries]
    write(sorted(rows, key=lambda row: order.index(row["text"])), about, name)
    rows_path.unlink()


if __name__ == "__main__":
    main()
