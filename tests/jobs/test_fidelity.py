"""A patch without effect is recognised: by its syntax, or by the same bits from the same seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xar_agent.jobs.bench import Bench
from xar_agent.jobs.fidelity import fidelity, same_program, same_syntax
from xar_agent.jobs.local import LocalEngine
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.types import JobSpec

Edit = Callable[..., str]
Wish = Callable[..., JobSpec]


@pytest.mark.parametrize("backend", ["process"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = (1.0)  # the same")}, True),
        ({"train.py": ("LEARNING_RATE = 1.0\n", "LEARNING_RATE = 1.0\n\n\n# a remark\n")}, True),
        ({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 1.5")}, False),
    ],
)
def test_comments_and_layout_change_nothing(
    bench: Bench, edit: Edit, tmp_path: Path, changes: dict[str, tuple[str, str]], same: bool
) -> None:
    tree = edit(changes)
    assert same_program(bench, tree) is same
    if same:
        assert fidelity(bench, tree, [], jobs_dir=tmp_path) == "no_effect"
    else:
        assert fidelity(bench, tree, [], jobs_dir=tmp_path) == "unknown"


@pytest.mark.parametrize(
    ("change", "expected", "base_runs"),
    [
        (("LEARNING_RATE = 1.0", "LEARNING_RATE = 0.5 + 0.5"), "no_effect", 1),
        (("LEARNING_RATE = 1.0", "LEARNING_RATE = 1.5"), "effect", 0),
        (("FINAL_LR_FRACTION = 0.1", "FINAL_LR_FRACTION = 0.1 if Path('x') else 0.2"), "no_effect", 1),
    ],
)
@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_the_same_bits_from_the_same_seed_are_no_effect(
    store: RunStore, bench: Bench, edit: Edit, wish: Wish, change: tuple[str, str], expected: str, base_runs: int
) -> None:
    tree = edit({"train.py": change})
    with LocalEngine(store, bench) as engine:
        jobs = engine.wait([engine.submit(wish(tree)).id])
    assert fidelity(bench, tree, jobs, jobs_dir=store.dir / "jobs") == expected
    assert len(list((store.dir / "baseline").glob("*/evaluation.json"))) == base_runs


def test_a_late_difference_is_an_effect(store: RunStore, bench: Bench, edit: Edit, wish: Wish) -> None:
    tree = edit({"train.py": ("    save(model", "    model.weights[''][0] += 1.0\n    save(model")})
    with LocalEngine(store, bench) as engine:
        jobs = engine.wait([engine.submit(wish(tree)).id])
    assert fidelity(bench, tree, jobs, jobs_dir=store.dir / "jobs") == "effect"


def test_files_that_are_no_python_or_do_not_parse_count_as_different(tmp_path: Path) -> None:
    for name, text in {"a.py": "x = (", "b.py": "x = (", "c.txt": "same", "d.txt": "same"}.items():
        (tmp_path / name).write_text(text)
    assert not same_syntax(tmp_path / "a.py", tmp_path / "b.py")
    assert not same_syntax(tmp_path / "c.txt", tmp_path / "d.txt")
    assert not same_syntax(tmp_path / "missing.py", tmp_path / "a.py")
