"""The environment of docs/write-an-environment.md: its held-out rows are nobody's to know, and its checks bite."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xar_agent.jobs.envcheck_data import shared
from xar_agent.jobs.envcheck_files import check_files, read_env
from xar_agent.jobs.findings import passes

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "environments" / "tabular"

if not FOLDER.is_dir():
    pytest.skip("needs the repository", allow_module_level=True)

Prepare = Callable[..., Path]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """``prepare(name, *arguments)`` -> the data folder of that name."""

    def run(name: str, *arguments: str | Path) -> Path:
        folder = tmp_path / name
        command = [sys.executable, "-P", str(FOLDER / "prepare.py"), str(folder), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder

    return run


def test_its_files_and_rules_are_in_order() -> None:
    env, found = read_env(FOLDER)
    assert env is not None
    assert passes(found)
    assert [f.point for f in check_files(env, "default") if f.state != "ok"] == []
    contract = env.at("default").file.contract
    assert "(B, 16)" in contract
    assert "(B, 4)" in contract


def test_every_data_set_is_new_and_its_recipe_makes_it_again(prepare: Prepare) -> None:
    one, two = prepare("one"), prepare("two")
    assert (one / "val" / "rows.f32").read_bytes() != (two / "val" / "rows.f32").read_bytes()
    again = prepare("again", "--source", one / "recipe.json")
    assert (again / "MANIFEST.json").read_bytes() == (one / "MANIFEST.json").read_bytes()


def test_the_seed_of_the_rows_is_in_no_split(prepare: Prepare) -> None:
    folder = prepare("one")
    seed = json.loads((folder / "recipe.json").read_text())["seed"]
    for split in ("train", "val", "hidden"):
        assert all(seed.encode() not in path.read_bytes() for path in (folder / split).iterdir())
    assert shared(folder / "val", folder / "train") == 0
    assert shared(folder / "hidden", folder / "val") == 0


def test_a_copied_split_is_noticed(prepare: Prepare) -> None:
    folder = prepare("one")
    (folder / "train" / "rows.f32").write_bytes((folder / "val" / "rows.f32").read_bytes())
    assert shared(folder / "val", folder / "train") > 0.5


def test_each_planted_cheat_names_its_check_and_changes_the_program_as_it_is(tmp_path: Path) -> None:
    for path in sorted((FOLDER / "cheats").glob("*.diff")):
        first, second, *_ = path.read_text().splitlines()
        assert first.startswith("# caught by: ")
        assert second.startswith("# ")
        repo = tmp_path / path.stem
        shutil.copytree(FOLDER / "repo", repo)
        command = ["git", "apply", "--check", str(path)]
        done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{path.name}: {done.stderr}"


@pytest.mark.bwrap
def test_it_passes_every_point_and_a_cheat_is_caught(user_cache: Path) -> None:
    if not any((user_cache / "wheelhouse").glob("scikit_learn-1.9.1-*.whl")):
        pytest.skip(f"no scikit-learn 1.9.1 in {user_cache / 'wheelhouse'} (pip download; see the example's README)")
    command = [sys.executable, "-m", "xar_agent", "envs", "check", str(FOLDER), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    findings = json.loads(done.stdout)["findings"]
    assert [f for f in findings if f["state"] in ("missing", "failed")] == []
    assert done.returncode == 0
