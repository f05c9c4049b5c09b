"""Workspaces as git trees, while nothing planted in them can act."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from xar_agent.errors import PatchRefused, StoreError
from xar_agent.sandbox import files, tree


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where trees are kept."""
    return tmp_path / "store"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A small repository."""
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.py").write_text("a = 1\nb = 2\n")
    (folder / "sub" / "x.py").write_text("x\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def test_the_hash_is_gits_own(store: Path, repo: Path) -> None:
    base = tree.make_base(repo, store)
    env = {**os.environ, "GIT_DIR": str(store.parent / "g"), "GIT_WORK_TREE": str(repo)}
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], env=env, check=True)
    done = subprocess.run(["git", "write-tree"], env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == base


def test_the_hash_depends_on_content_alone(store: Path, repo: Path, tmp_path: Path) -> None:
    base = tree.make_base(repo, store)
    tree.checkout(store, base, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (0, 0))
    (tmp_path / "copy" / "train.py").chmod(0o600)
    assert tree.snapshot(store, tmp_path / "copy") == base
    assert tree.make_base(tmp_path / "copy", tmp_path / "other") == base


def test_a_checkout_is_whole_and_readable_whatever_the_umask(store: Path, repo: Path, tmp_path: Path) -> None:
    base = tree.make_base(repo, store)
    before = os.umask(0o077)
    try:
        tree.checkout(store, base, tmp_path / "new" / "copy")
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in (tmp_path / "new" / "copy").rglob("*")}
    assert modes == {"train.py": "0o644", "sub": "0o755", "x.py": "0o644", "run.sh": "0o755"}
    with pytest.raises(FileExistsError):
        tree.checkout(store, base, tmp_path / "new" / "copy")


def test_untracked_files_count_and_generated_ones_do_not(store: Path, repo: Path) -> None:
    (repo / ".gitignore").write_text("*.log\n/data/\n!keep.log\n")
    (repo / "kept.log").write_text("in the base although ignored")
    base = tree.make_base(repo, store)
    for path in ("out/c.pt", "sub/__pycache__/x.pyc", "y.pyc", "a.log", "data/d", ".git/config", ".pytest_cache/x"):
        (repo / path).parent.mkdir(exist_ok=True)
        (repo / path).write_text("generated")
    before = tree.snapshot(store, repo)
    (repo / "sub" / "out").mkdir()
    for path in ("new.py", "sub/out/f", "keep.log"):
        (repo / path).write_text("new")
    patch = tree.diff(store, before, tree.snapshot(store, repo))
    assert patch.files == ("keep.log", "new.py", "sub/out/f")
    assert before != tree.make_base(repo, store) or base == before


def test_a_changed_gitignore_hides_nothing(store: Path, repo: Path) -> None:
    base = tree.make_base(repo, store)
    (repo / ".gitignore").write_text("*\n")
    (repo / "hidden.py").write_text("h\n")
    assert tree.diff(store, base, tree.snapshot(store, repo)).files == (".gitignore", "hidden.py")


def test_planted_git_settings_run_and_change_nothing(store: Path, repo: Path, tmp_path: Path) -> None:
    base = tree.make_base(repo, store)
    trap = tmp_path / "trapped"
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    with (repo / ".git" / "config").open("a") as config:
        config.write(
            f'[filter "t"]\n\tclean = touch {trap}\n\tsmudge = touch {trap}\n[core]\n\tfsmonitor = touch {trap}\n'
        )
        config.write(f'[diff "t"]\n\ttextconv = touch {trap}\n\tcommand = touch {trap}\n')
    hook = repo / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    (repo / ".gitattributes").write_text("* filter=t diff=t text eol=crlf ident\n")
    (repo / "train.py").write_bytes(b"a = 1\r\nb = $Id$\n")
    (repo / "sub" / ".git").mkdir()
    (repo / "sub" / ".git" / "HEAD").write_text("ref: refs/heads/x\n")
    (repo / "sub" / "x.py").write_text("changed\n")
    changed = tree.snapshot(store, repo)
    patch = tree.diff(store, base, changed)
    assert patch.files == (".gitattributes", "sub/x.py", "train.py")
    tree.checkout(store, changed, tmp_path / "copy")
    assert (tmp_path / "copy" / "train.py").read_bytes() == b"a = 1\r\nb = $Id$\n"
    assert not trap.exists()


def test_the_users_own_git_settings_change_nothing(store: Path, repo: Path, home: Path) -> None:
    (home / ".gitconfig").write_text(
        "[core]\n\tquotePath = true\n[diff]\n\tnoprefix = true\n\tcontext = 9\n[color]\n\tui = always\n"
    )
    base = tree.make_base(repo, store)
    (repo / "train.py").write_text("a = 1\nb = 3\n")
    patch = tree.diff(store, base, tree.snapshot(store, repo))
    assert patch.diff.startswith("diff --git a/train.py b/train.py\n")


def test_restoring_replaces_links_without_following_them(store: Path, repo: Path, tmp_path: Path) -> None:
    base = tree.make_base(repo, store)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.py").write_text("host")
    for path in (repo / "sub" / "x.py", repo / "train.py"):
        path.unlink()
    (repo / "sub").rmdir()
    (repo / "sub").symlink_to(outside)
    (repo / "train.py").symlink_to(outside / "x.py")
    tree.restore(store, base, repo)
    assert tree.snapshot(store, repo) == base
    assert (outside / "x.py").read_text() == "host"
    assert not (repo / "sub").is_symlink()


def test_pipes_and_unreadable_files_do_not_stop_a_snapshot(store: Path, repo: Path) -> None:
    base = tree.make_base(repo, store)
    os.mkfifo(repo / "pipe")
    assert tree.snapshot(store, repo) == base
    tree.restore(store, base, repo)
    assert not (repo / "pipe").exists()


def test_huge_files_and_endless_folders_are_refused_by_name(store: Path, repo: Path) -> None:
    tree.make_base(repo, store)
    with (repo / "sparse.bin").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PatchRefused, match=r"sparse\.bin is too big"):
        tree.snapshot(store, repo)
    (repo / "sparse.bin").unlink()
    (repo / "/".join("d" * 80)).mkdir(parents=True)
    with pytest.raises(PatchRefused, match="too deep"):
        tree.snapshot(store, repo)


def test_odd_names_survive(store: Path, repo: Path, tmp_path: Path) -> None:
    base = tree.make_base(repo, store)
    for name in (b"new\nline", b"quote\"s'", b"\xff\xfe", "漢".encode(), b" lead", b"-rf"):
        (repo / os.fsdecode(name)).write_text("x")
    odd = tree.snapshot(store, repo)
    tree.checkout(store, odd, tmp_path / "copy")
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {p.name for p in repo.iterdir()}
    tree.restore(store, base, repo)
    assert tree.snapshot(store, repo) == base


def test_a_damaged_store_is_said(store: Path, repo: Path, tmp_path: Path) -> None:
    base = tree.make_base(repo, store)
    (store / "objects" / base[:2] / base[2:]).write_bytes(b"garbage")
    with pytest.raises(StoreError, match="damaged"):
        tree.checkout(store, base, tmp_path / "copy")


def test_the_manifest_sees_content_modes_links_and_new_files(repo: Path) -> None:
    (repo / "link").symlink_to("train.py")
    (repo / "cfg").mkdir()
    (repo / "cfg" / "a.toml").write_text("1")
    before = tree.manifest(repo, ["*.py", "run.sh", "link", "cfg"])
    assert set(before.files) == {"train.py", "run.sh", "link", "cfg/a.toml"}
    assert tree.verify_manifest(repo, before) == ()
    (repo / "train.py").write_text("other")
    (repo / "run.sh").chmod(0o644)
    (repo / "link").unlink()
    (repo / "link").symlink_to("run.sh")
    (repo / "cfg" / "a.toml").unlink()
    os.mkfifo(repo / "cfg" / "b")
    differences = tree.verify_manifest(repo, before)
    assert set(differences) == {
        "train.py has changed",
        "run.sh has changed",
        "link has changed",
        "cfg/a.toml is missing",
        "cfg/b is new",
    }
    assert tree.manifest(repo, before.globs).digest != before.digest


@pytest.mark.parametrize(
    ("path", "glob", "meant"),
    [
        ("a.py", "*.py", True),
        ("d/a.py", "*.py", False),
        ("d/a.py", "**/*.py", True),
        ("a.py", "**/*.py", True),
        ("d/e/f", "d", True),
        ("d/e/f", "d/", True),
        ("d/e/f", "d/**", True),
        ("dd/f", "d", False),
        ("d/e/f", "d/*/f", True),
        ("d/e/g/f", "d/*/f", False),
        ("a.pyc", "a.p?", False),
        ("a+b(1).py", "a+b(1).py", True),
    ],
)
def test_patterns_mean_what_they_say(path: str, glob: str, meant: bool) -> None:
    assert tree.matches(path, [glob]) is meant


def test_a_link_swapped_in_while_the_host_writes_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "w" / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(PermissionError):
        files.write_file(tmp_path / "w", "d/f", b"x")
    with pytest.raises(PermissionError):
        files.make_folder(tmp_path / "w", "d/e")
    assert list((tmp_path / "outside").iterdir()) == []


def test_removing_a_tree_leaves_what_its_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "w" / "d").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_text("stays")
    (tmp_path / "w" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "w" / "d").chmod(0)
    files.remove_tree(tmp_path / "w")
    assert not (tmp_path / "w").exists()
    assert (tmp_path / "outside" / "f").read_text() == "stays"


def test_a_second_snapshot_at_the_same_time_leaves_out_what_the_first_one_does(store: Path, tmp_path: Path) -> None:
    """Until the rules of 400 folders are written, nobody may take some of them for all."""
    base = tmp_path / "many"
    for number in range(400):
        folder = base / f"p{number:03}"
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*.tmp\n")
    tree_of_base = tree.make_base(base, store)
    copies = [tmp_path / "first", tmp_path / "second"]
    for copy in copies:
        tree.checkout(store, tree_of_base, copy)
        for folder in copy.iterdir():
            (folder / "made.tmp").write_text("made by a run")
    found: list[str] = []
    first = threading.Thread(target=lambda: found.append(tree.snapshot(store, copies[0])))
    first.start()
    while not (store / "ignore" / tree_of_base).exists():
        time.sleep(0)
    found.append(tree.snapshot(store, copies[1]))
    first.join()
    assert found == [tree_of_base] * 2
    assert [path.name for path in (store / "ignore").iterdir()] == [tree_of_base]
