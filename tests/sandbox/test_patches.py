"""Patches: what they may hold, that they apply exactly, and what is refused by name."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xar_agent.errors import PatchRefused
from xar_agent.sandbox import objects, tree

TEXT = "".join(f"line {n}\n" for n in range(30))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where trees are kept."""
    return tmp_path / "store"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A small repository."""
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.py").write_text(TEXT)
    (folder / "sub" / "x.py").write_text("x\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


@pytest.fixture
def base(repo: Path, store: Path) -> str:
    """Its tree."""
    return tree.make_base(repo, store)


def test_a_patch_says_what_changed_and_applies_to_the_same_tree(store: Path, repo: Path, base: str) -> None:
    (repo / "train.py").write_text(TEXT.replace("line 7\n", "line seven\nand more\n"))
    (repo / "sub" / "x.py").unlink()
    (repo / "new" / "er").mkdir(parents=True)
    (repo / "new" / "er" / "ü.py").write_text("no newline at the end")
    (repo / "run.sh").write_text("#!/bin/sh\r\necho\x0cform feed\u2028separator\r\n")
    (repo / "empty.py").write_text("")
    after = tree.snapshot(store, repo)
    patch = tree.diff(store, base, after)
    assert patch.files == ("empty.py", "new/er/ü.py", "run.sh", "sub/x.py", "train.py")
    assert (patch.added, patch.removed, patch.base) == (5, 3, base)
    assert tree.apply_patch(store, base, patch.diff) == after
    assert tree.diff(store, base, tree.apply_patch(store, base, patch.diff)) == patch


def test_no_change_is_an_empty_patch(store: Path, repo: Path, base: str) -> None:
    patch = tree.diff(store, base, tree.snapshot(store, repo))
    assert (patch.diff, patch.files, patch.added, patch.removed) == ("", (), 0, 0)
    assert tree.apply_patch(store, base, "") == base


def test_changed_permissions_are_left_out(store: Path, repo: Path, base: str) -> None:
    (repo / "train.py").chmod(0o755)
    (repo / "run.sh").chmod(0o644)
    (repo / "new.sh").write_text("x\n")
    (repo / "new.sh").chmod(0o755)
    patch = tree.diff(store, base, tree.snapshot(store, repo))
    assert patch.files == ("new.sh",)
    applied = objects.list_tree(store, tree.apply_patch(store, base, patch.diff))
    assert {path: entry.mode for path, entry in applied.items() if path.endswith(".sh")} == {
        "new.sh": "100644",
        "run.sh": "100755",
    }


def test_a_person_may_write_a_rename_or_leave_out_the_last_newline(store: Path, base: str) -> None:
    rename = "diff --git a/sub/x.py b/sub/y.py\nsimilarity index 100%\nrename from sub/x.py\nrename to sub/y.py"
    patch = tree.diff(store, base, tree.apply_patch(store, base, rename))
    assert patch.files == ("sub/x.py", "sub/y.py")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("b.bin", b"a\0b", "b.bin is binary"),
        ("latin.txt", b"\xe9", "latin.txt is binary"),
        ("huge.txt", b"x" * (1 << 20) + b"x", "huge.txt is too big"),
        ("new\nline.py", b"x", "no plain file name"),
        ("tab\t.py", b"x", "no plain file name"),
    ],
)
def test_what_a_text_patch_cannot_hold_is_refused_by_name(
    store: Path, repo: Path, base: str, name: str, content: bytes, why: str
) -> None:
    (repo / name).write_bytes(content)
    with pytest.raises(PatchRefused, match=why) as refused:
        tree.diff(store, base, tree.snapshot(store, repo))
    assert refused.value.hint


@pytest.mark.parametrize("target", ["/etc/passwd", "train.py", "../outside"])
def test_links_are_refused(store: Path, repo: Path, base: str, target: str) -> None:
    (repo / "link").symlink_to(target)
    with pytest.raises(PatchRefused, match="link is a link"):
        tree.diff(store, base, tree.snapshot(store, repo))


def new_file(path: str, mode: str = "100644", text: str = "x") -> str:
    """A diff that brings one file."""
    return f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{text}\n"


HOSTILE = {
    "up": new_file("../evil.py"),
    "deep up": new_file("a/../../evil.py"),
    "git folder": new_file(".git/hooks/pre-commit"),
    "git folder in capitals": new_file("sub/.GIT/config"),
    "gitattributes": new_file("sub/.gitattributes"),
    "gitmodules": new_file(".gitmodules"),
    "link": new_file("link", "120000", "/etc/passwd") + "\\ No newline at end of file\n",
    "submodule": new_file("mod", "160000", "Subproject commit " + "0" * 40),
    "program": new_file("evil.sh", "100755"),
    "odd mode": new_file("evil.sh", "104755"),
    "mode change": "diff --git a/train.py b/train.py\nold mode 100644\nnew mode 100755\n",
    "becomes a link": "diff --git a/sub/x.py b/sub/x.py\nold mode 100644\nnew mode 120000\n",
    "binary": "diff --git a/b b/b\nnew file mode 100644\nGIT binary patch\nliteral 3\nKcmZQzWMX6Z|HuFU0DJ%g\n\n"
    "literal 0\nHcmV?d00001\n\n",
    "conftest": new_file("sub/conftest.py"),
    "sitecustomize": new_file("sitecustomize.py"),
    "usercustomize": new_file("UserCustomize.py"),
    "pth": new_file("evil.pth"),
    "wrong context": "--- a/train.py\n+++ b/train.py\n@@ -1,3 +1,3 @@\n line 0\n-line ONE\n+x\n line 2\n",
    "file that is there": new_file("train.py"),
    "missing file": "--- a/none.py\n+++ b/none.py\n@@ -1 +1 @@\n-a\n+b\n",
    "below a file": new_file("train.py/x"),
    "no diff": "please change the learning rate",
    "torn": "--- a/train.py\n+++ b/train.py\n@@ -1,3 +1,3 @@\n line 0\n",
    "NUL": new_file("a\0b"),
    "huge": new_file("h", text="x" * (5 << 20)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_and_broken_patches_are_refused_with_a_hint(store: Path, base: str, tmp_path: Path, kind: str) -> None:
    with pytest.raises(PatchRefused) as refused:
        tree.apply_patch(store, base, HOSTILE[kind])
    assert refused.value.message
    assert refused.value.hint
    assert "\n" not in refused.value.message
    assert {path.name for path in tmp_path.iterdir()} == {"store", "repo"}


def test_an_absolute_path_stays_in_the_repository(store: Path, base: str) -> None:
    diff = "--- /dev/null\n+++ /etc/evil\n@@ -0,0 +1 @@\n+x\n"
    assert "etc/evil" in objects.list_tree(store, tree.apply_patch(store, base, diff))


def test_context_must_be_exact_but_may_have_moved(store: Path, repo: Path, base: str) -> None:
    (repo / "train.py").write_text("first\n" + TEXT)
    moved = tree.snapshot(store, repo)
    (repo / "train.py").write_text(TEXT.replace("line 15\n", "line XV\n"))
    patch = tree.diff(store, base, tree.snapshot(store, repo))
    applied = tree.apply_patch(store, moved, patch.diff)
    assert "line XV" in objects.read_blob(store, objects.list_tree(store, applied)["train.py"].hash).decode()
    with pytest.raises(PatchRefused, match="train.py"):
        tree.apply_patch(store, moved, patch.diff.replace(" line 14\n", " line 14 \n"))


def test_a_patch_stays_where_it_may_edit() -> None:
    tree.protect(["train.py", "lib/a/b.py"], ["train.py", "lib/**"], ["lib/eval.py"])
    for path, why in {
        "lib/eval.py": "protected",
        "stream.py": "not editable",
        "lib/conftest.py": "unasked",
        "lib/x.pth": "unasked",
        "lib/.gitignore": "git",
        "lib/../stream.py": "leads out",
        "/train.py": "leads out",
    }.items():
        with pytest.raises(PatchRefused, match=why) as refused:
            tree.protect(["train.py", path], ["train.py", "lib/**"], ["lib/eval.py"])
        assert path in refused.value.message
        assert refused.value.hint


NAMES = st.text(string.ascii_letters + "_-. ü", min_size=1, max_size=6).filter(
    lambda name: (
        name.strip(". ") and not name.lower().startswith(".git") and not name.lower().endswith((".pyc", ".pth"))
    )
)
CONTENTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=60)
FILES = st.dictionaries(NAMES.map(lambda name: f"d/{name}"), CONTENTS, max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=FILES, after=FILES)
def test_any_two_text_trees_have_a_patch_between_them(
    tmp_path: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    store = tmp_path / "store"
    objects.open_store(store)

    def stored(files: dict[str, str]) -> str:
        entries = {p: objects.Entry("100644", objects.write_blob(store, os.fsencode(t))) for p, t in files.items()}
        return objects.write_tree(store, entries)

    first, second = stored(before), stored(after)
    assert tree.apply_patch(store, first, tree.diff(store, first, second).diff) == second
