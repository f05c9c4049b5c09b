"""The recorded episodes that come along can be seen from anywhere, and name nothing of where they were made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from xar_agent.analysis.episode import find_episode, read_episode, shipped_episodes
from xar_agent.analysis.replay_view import show_episode

EPISODES = shipped_episodes()
PERSONAL = re.compile(rb"/(?:root|home|tmp)/|sk-[A-Za-z0-9]{8}")


def test_at_least_one_comes_along() -> None:
    assert EPISODES


@pytest.mark.parametrize("name", sorted(EPISODES))
def test_it_is_found_from_anywhere_and_shown_to_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = find_episode(Path("examples") / name)
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    with console.file:
        show_episode(console, read_episode(folder))
    text = console.export_text()
    assert "submitted" in text
    assert "+" in text


@pytest.mark.parametrize("name", sorted(EPISODES))
def test_it_names_no_place_and_no_key(name: str) -> None:
    files = [path for path in EPISODES[name].rglob("*") if path.is_file()]
    assert [path for path in files if PERSONAL.search(path.read_bytes())] == []


@pytest.mark.parametrize("name", sorted(EPISODES))
def test_it_carries_its_patch(name: str) -> None:
    assert (EPISODES[name] / "patch.diff").read_text().startswith("diff --git ")
