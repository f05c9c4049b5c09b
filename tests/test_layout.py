"""The rooms lie at the top of the repository and are installed inside the package: map and links must agree."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "xar_agent"

if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("needs the repository", allow_module_level=True)

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = PROJECT["tool"]["hatch"]["build"]
WHEEL = BUILD["targets"]["wheel"]
DATA = {"src/xar_agent", "examples/episodes"}
ROOMS = sorted(set(WHEEL["sources"]) - DATA)


def test_every_link_in_the_package_is_a_room_and_every_room_has_its_link() -> None:
    links = sorted(path.name for path in PACKAGE.iterdir() if path.is_symlink())
    assert links == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_linked_mapped_and_excluded_under_its_own_name(room: str) -> None:
    assert (PACKAGE / room).resolve() == ROOT / room
    assert (PACKAGE / room).readlink() == Path("..", "..", room)
    assert WHEEL["sources"][room] == f"xar_agent/{room}"
    assert room in WHEEL["only-include"]
    assert f"src/xar_agent/{room}" in BUILD["exclude"]
    assert room in BUILD["targets"]["sdist"]["only-include"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_imported_through_the_package_only(room: str) -> None:
    module = importlib.import_module(f"xar_agent.{room}")
    assert module.__name__ == f"xar_agent.{room}"
    assert module.__doc__
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert room in banned


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_its_place_in_the_layers(room: str) -> None:
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {part.strip(" ()") for layer in layers for part in layer.split("|")}
    assert f"xar_agent.{room}" in named


def test_files_stay_short_enough_to_read() -> None:
    folders = [PACKAGE, *(ROOT / room for room in ROOMS)]
    sources = [path for folder in folders for path in folder.rglob("*.py") if "repo" not in path.parts]
    long = {str(path.relative_to(ROOT)): n for path in sources if (n := len(path.read_text().splitlines())) > 300}
    assert long == {}
