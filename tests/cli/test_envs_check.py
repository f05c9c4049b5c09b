"""``envs init`` writes what ``envs check`` finds good; each thing that is broken is named, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xar_agent.envs.spec import list_envs

Broken = Callable[[Path], object]
SEES_ALL = pytest.mark.bwrap


@pytest.fixture
def scaffold(xar, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """A fresh environment that trains for a moment only."""
    ended = xar("envs", "init", "mine", "--dir", tmp_path)
    assert ended.code == 0
    folder = tmp_path / "mine"
    edit(folder / "env.toml", "budget = 60 ", "budget = 10 ")
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def points(ended) -> dict[str, tuple[str, str]]:  # type: ignore[no-untyped-def]
    """Point -> state and all that was said."""
    return {f["point"]: (f["state"], f"{f['text']}; {f['advice']}") for f in ended.json["findings"]}


def test_a_scaffold_is_complete_says_the_next_steps_and_overwrites_nothing(xar, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ended = xar("envs", "init", "mine", "--dir", tmp_path)
    assert ended.code == 0
    assert [line[:2] for line in ended.out.splitlines()[1:]] == ["1.", "2.", "3."]
    folder = tmp_path / "mine"
    assert 'name = "mine"' in (folder / "env.toml").read_text()
    assert (folder / "README.md").read_text().startswith("# mine\n")
    (folder / "env.toml").write_text("changed")
    again = xar("envs", "init", "mine", "--dir", tmp_path)
    assert again.code == 2
    assert "is there already" in again.err
    assert (folder / "env.toml").read_text() == "changed"
    assert xar("envs", "init", "Not/AName", "--dir", tmp_path).code == 2


def test_the_template_is_no_environment_of_its_own() -> None:
    assert not {"templates", "folder", "scaffold"} & set(list_envs())


@SEES_ALL
def test_a_fresh_scaffold_passes_every_point(xar, scaffold: Path) -> None:  # type: ignore[no-untyped-def]
    ended = xar("envs", "check", scaffold, timeout_s=600)
    assert ended.code == 0, ended.out
    assert ended.out.splitlines()[-1] == "ready, 1 warning"
    states = {line[8:24].strip(): line.split()[0] for line in ended.out.splitlines()[:-1]}
    assert states.pop("baseline") == "warning"
    assert set(states.values()) == {"ok"}
    assert {"smoke", "train", "repeat", "claims", "refusals", "additions", "splits", "cheat planted"} <= set(states)


@SEES_ALL
def test_a_quick_check_of_a_shipped_environment_by_name(xar) -> None:  # type: ignore[no-untyped-def]
    ended = xar("envs", "check", "toy", "--quick", "--json", timeout_s=600)
    assert ended.json["ok"] is (ended.code == 0)
    found = points(ended)
    assert {found[name][0] for name in ("env.toml", "data", "splits", "smoke", "train", "repeat", "claims")} == {"ok"}


BROKEN: dict[str, tuple[Broken, str, str]] = {
    "a wrong key": (lambda f: edit(f / "env.toml", "metric =", "metrik ="), "env.toml", "metric"),
    "a missing program": (lambda f: (f / "evaluator.py").unlink(), "files", "evaluator.py"),
    "an idle pattern": (
        lambda f: edit(f / "env.toml", '"train.py", "predict.py"', '"trian.py"'),
        "editable",
        "trian.py",
    ),
    "a file in both lists": (
        lambda f: edit(f / "env.toml", 'protected = ["README.md"]', 'protected = ["README.md", "train.py"]'),
        "rules",
        "train.py",
    ),
    "no README": (lambda f: (f / "README.md").unlink(), "README", "README.md"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_the_files_is_said_before_anything_runs(xar, scaffold: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    break_it, point, word = BROKEN[name]
    break_it(scaffold)
    ended = xar("envs", "check", scaffold, "--json")
    assert ended.code == 1
    state, said = points(ended)[point]
    assert state in ("missing", "failed")
    assert word in said
    assert "smoke" not in points(ended)


def test_splits_that_share_rows_fail(xar, scaffold: Path) -> None:  # type: ignore[no-untyped-def]
    edit(scaffold / "prepare.py", 'random.Random(f"{SEED} {name}")', 'random.Random(f"{SEED}")')
    edit(scaffold / "repo" / "train.py", "def main() -> None:", "def main() -> None:\n    raise SystemExit(3)")
    found = points(xar("envs", "check", scaffold, "--sandbox", "process", "--json"))
    assert found["splits"][0] == "failed"
    assert found["smoke"][0] == "failed"
    assert found["runs"][0] == "failed"


def test_unseeded_training_and_a_believed_claim_are_found(xar, scaffold: Path) -> None:  # type: ignore[no-untyped-def]
    edit(scaffold / "repo" / "train.py", "network = new_network(seed)", "network = new_network(int(time.time_ns()))")
    edit(scaffold / "cheats" / "planted.diff", "# caught by: stateless", "# caught by: shape")
    ended = xar("envs", "check", scaffold, "--sandbox", "process", "--json", timeout_s=600)
    assert ended.code == 1
    found = points(ended)
    assert found["repeat"][0] in ("failed", "warning")
    assert "XAR_SEED" in found["repeat"][1]
    assert found["cheat planted"][0] == "failed"
    assert "caught by INVALID, stateless" in found["cheat planted"][1]


@pytest.mark.parametrize("name", ["nowhere", "./nowhere"])
def test_an_environment_that_is_not_there_is_wrong_input(xar, name: str) -> None:  # type: ignore[no-untyped-def]
    ended = xar("envs", "check", name)
    assert ended.code == 2
    assert "nowhere" in ended.err
