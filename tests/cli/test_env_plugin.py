"""The package that docs/write-an-environment.md shows can be built and installed, and its environment is found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from xar_agent.cli.env_init import write_scaffold

PAGE = Path(__file__).resolve().parents[2] / "docs" / "write-an-environment.md"


def block(language: str) -> str:
    """The page's only block of that language."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Folder into which pip has installed the page's package, with a scaffold in it."""
    project, target = tmp_path / "project", tmp_path / "target"
    package = project / "xar_env_mine"
    package.mkdir(parents=True)
    (project / "pyproject.toml").write_text(block("toml"))
    (package / "__init__.py").write_text(block("python"))
    write_scaffold("mine", package)
    words = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", *words, "--target", str(target), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_an_installed_package_brings_its_environment(xar, installed: Path) -> None:  # type: ignore[no-untyped-def]
    ended = xar("envs", "list", "--json", env={"PYTHONPATH": str(installed)})
    found = {env["name"]: env["path"] for env in ended.json["envs"]}
    assert found["mine"] == str(installed / "xar_env_mine" / "mine")
    assert (installed / "xar_env_mine" / "mine" / "repo" / "train.py").is_file()
    shown = xar("envs", "show", "mine", "--json", env={"PYTHONPATH": str(installed)})
    assert shown.json["presets"]["default"]["data"] == "folder"
