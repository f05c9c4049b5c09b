"""The ideas in examples/ are files that ``--ideas`` takes, and their table says what the files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xar_agent.cli.batch_plan import read_ideas

IDEAS = Path(__file__).parents[2] / "examples" / "ideas"


@pytest.mark.parametrize(("name", "n"), [("nanogpt", 4), ("grpo", 5)])
def test_each_file_is_a_list_of_ideas_with_published_scores(name: str, n: int) -> None:
    path = IDEAS / f"{name}.jsonl"
    ideas = read_ideas(str(path), name)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [idea.text for idea in ideas] == [entry["text"] for entry in entries]
    assert len(entries) == n
    table = (IDEAS / "README.md").read_text()
    for entry in entries:
        published = entry["published"]
        assert f"| {name} | {published['value']} | {published['baseline']} |" in table
        assert any(line.startswith(f"| {entry['called']}") for line in table.splitlines())


def test_perturbation_robustness_is_among_them() -> None:
    assert any("Perturbation robustness" in idea.text for idea in read_ideas(str(IDEAS / "grpo.jsonl"), "grpo"))
