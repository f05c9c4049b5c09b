"""The wheel, made from the source archive, works by itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("needs the repository", allow_module_level=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built through the source archive, so that nothing is taken from the checkout alone."""
    out = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_has_every_room_once_and_nothing_generic_at_its_top(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in names} == {"xar_agent", f"xar_agent-{wheel.name.split('-')[1]}.dist-info"}
    needed_files = ("prompts/implement.md", "envs/toy/env.toml", "envs/nanogpt/repo/train.py", "sandbox/tree.py")
    scaffold = [f"envs/templates/folder/{name}" for name in ("env.toml", "repo/train.py", "cheats/planted.diff")]
    for needed in (*needed_files, *scaffold, "sandbox/image/Dockerfile.gpu", "sandbox/image/requirements-gpu.txt"):
        assert f"xar_agent/{needed}" in names


def test_the_installed_command_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    # Unpacked on a path of its own: a virtual environment would cost a minute and show no more.
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from xar_agent.cli.main import main; main()"
    argv = [sys.executable, "-c", code, str(site), "envs", "list"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert "nanogpt" in done.stdout
