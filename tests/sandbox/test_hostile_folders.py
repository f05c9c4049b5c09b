"""Folders made to break whoever walks them: very deep, very long, unreadable, unwritable."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xar_agent.errors import PatchRefused
from xar_agent.sandbox import files, tree

DEEP = 1500
LONG_NAME = "d" * 100
"""So many of them in each other are far beyond PATH_MAX."""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder with one file."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "train.py").write_text("a = 1\n")
    return folder


@pytest.fixture
def workspace(plain: Path) -> Iterator[Path]:
    """A folder with one file, and another below ``deep`` that no path can name."""
    dig(plain, "deep")
    yield plain
    files.remove_tree(plain)  # pytest cannot


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """As few open files as a hardened service has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def dig(folder: Path, top: str) -> None:
    """Make ``top`` with folders in it ``DEEP`` levels down and a file at the end."""
    here = os.open(folder, os.O_RDONLY)
    for name in (top, *[LONG_NAME] * DEEP):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def owners(folder: Path) -> set[int]:
    """User ids of all folders in the chain."""
    found: set[int] = set()
    here = os.open(folder, os.O_RDONLY)
    while True:
        found.add(os.fstat(here).st_uid)
        names = os.listdir(here)  # noqa: PTH208 - there is no path
        if names == ["f"]:
            found.add(os.stat("f", dir_fd=here).st_uid)
            os.close(here)
            return found
        below = os.open(names[0], os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_that_is_too_deep_for_any_path_is_removed(workspace: Path) -> None:
    assert sys.getrecursionlimit() < DEEP
    files.remove_tree(workspace)
    assert not workspace.exists()


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_tree_that_is_too_deep_for_any_path_is_given_away(workspace: Path) -> None:
    files.own_tree(workspace, 60_001)
    assert owners(workspace / "deep") == {60_001}


@pytest.mark.usefixtures("few_descriptors")
def test_a_snapshot_or_manifest_of_a_deep_tree_is_refused_by_name(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(PatchRefused, match=r"deep/ddd.* lies too deep") as caught:
        tree.make_base(workspace, tmp_path / "store")
    assert len(caught.value.message) < 400
    with pytest.raises(PatchRefused, match=r"deep/ddd.* lies too deep"):
        tree.manifest(workspace, ["**"])


def test_restoring_clears_a_tree_that_could_not_be_stored(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "base" / "locked").mkdir(parents=True)
    (tmp_path / "base" / "train.py").write_text("a = 1\n")
    (tmp_path / "base" / "locked" / "f").write_text("f\n")
    base = tree.make_base(tmp_path / "base", tmp_path / "store")
    with (workspace / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (workspace / "locked").mkdir()
    (workspace / "locked" / "g").write_text("g")
    (workspace / "locked").chmod(0o500)
    (workspace / "out").mkdir()
    dig(workspace / "out", "stays")
    tree.restore(tmp_path / "store", base, workspace)
    assert tree.snapshot(tmp_path / "store", workspace) == base
    assert sorted(path.name for path in workspace.iterdir()) == ["locked", "out", "train.py"]


def test_a_patch_with_a_deep_path_is_refused(plain: Path, tmp_path: Path) -> None:
    base = tree.make_base(plain, tmp_path / "store")
    path = "d/" * DEEP + "f"
    with pytest.raises(PatchRefused, match="too deep"):
        tree.apply_patch(tmp_path / "store", base, f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n")


def test_what_was_made_unreadable_is_in_the_snapshot_all_the_same(plain: Path, tmp_path: Path) -> None:
    (plain / "sub" / "below").mkdir(parents=True)
    (plain / "sub" / "below" / "f").write_text("f")
    whole = tree.make_base(plain, tmp_path / "store")
    for path in ("sub/below/f", "sub/below", "sub", ""):
        (plain / path).chmod(0)
    assert tree.snapshot(tmp_path / "store", plain) == whole
    assert plain.stat().st_mode & 0o500 == 0o500


@pytest.mark.parametrize("path", ["a\ud800b", "a\0b", "sub/\udfff/x", "x" * 5000, "x/" * 5000])
def test_a_name_that_no_file_can_have_is_an_ordinary_error(plain: Path, path: str) -> None:
    with pytest.raises((FileNotFoundError, PermissionError)) as caught:
        files.read_file(plain, path, max_bytes=10)
    assert str(caught.value).encode()
    with pytest.raises(OSError, match="name|folder|NUL"):
        files.write_file(plain, path.replace("x/", "x" * 300 + "/"), b"x")
