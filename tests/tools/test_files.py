"""Reading and editing files of the workspace."""

from __future__ import annotations

import json

import pytest

from xar_agent.tools.toolbox import make_tools
from xar_agent.tools.workspace import Workspace


def use(workspace: Workspace, name: str, **arguments: object) -> tuple[str, str]:
    """(error code, text) of one tool call."""
    tool = next(tool for tool in make_tools(workspace) if tool.name == name)
    result = tool.observe(**arguments)
    if result.error:
        body = json.loads(result.text)
        assert body["error"] == result.error
        assert {"message", "hint"} <= body.keys()
    return result.error, result.text


def test_lines_of_a_file_are_shown_under_a_header(workspace: Workspace) -> None:
    error, text = use(workspace, "read_file", path="train.py", start_line=14, max_lines=3)
    assert error == ""
    assert text.splitlines()[0].startswith("train.py, lines 14-16 of ")
    assert "LEARNING_RATE = 1.0" in text


def test_the_absolute_path_inside_the_sandbox_is_understood(workspace: Workspace) -> None:
    assert use(workspace, "read_file", path="/workspace/train.py")[0] == ""


@pytest.mark.parametrize(
    ("path", "code"),
    [("nothing.py", "NOT_FOUND"), (".", "IS_DIR"), ("../x", "OUTSIDE_WORKSPACE"), ("/etc/passwd", "OUTSIDE_WORKSPACE"),
     ("binary.bin", "BINARY"), ("leads_out", "OUTSIDE_WORKSPACE")],
)  # fmt: skip
def test_what_cannot_be_read_has_its_code(workspace: Workspace, path: str, code: str) -> None:
    folder = workspace.sandbox.spec.workspace
    (folder / "binary.bin").write_bytes(b"\x00\x01\xff")
    (folder / "leads_out").symlink_to("/etc/passwd")
    assert use(workspace, "read_file", path=path)[0] == code


def test_a_unique_edit_is_made_and_says_which_rule_matched(workspace: Workspace) -> None:
    error, text = use(
        workspace, "edit_file", path="train.py", old_str="LEARNING_RATE = 1.0", new_str="LEARNING_RATE = 2.0"
    )
    assert error == ""
    assert "(match: exact)" in text
    assert b"LEARNING_RATE = 2.0" in workspace.sandbox.read("train.py")


def test_an_edit_that_matches_nowhere_names_the_nearest_lines(workspace: Workspace) -> None:
    error, text = use(workspace, "edit_file", path="train.py", old_str="LEARNING_RATE = 2.0", new_str="x")
    assert error == "NO_MATCH"
    assert any("LEARNING_RATE = 1.0" in place for place in json.loads(text)["nearest"])


def test_an_ambiguous_edit_changes_nothing_until_every_place_is_meant(workspace: Workspace) -> None:
    before = workspace.sandbox.read("train.py")
    error, text = use(workspace, "edit_file", path="train.py", old_str="LEARNING_RATE", new_str="LR")
    assert error == "AMBIGUOUS"
    assert len(json.loads(text)["lines"]) >= 2
    assert workspace.sandbox.read("train.py") == before
    assert (
        use(workspace, "edit_file", path="train.py", old_str="LEARNING_RATE", new_str="LR", replace_all=True)[0] == ""
    )
    assert b"LEARNING_RATE" not in workspace.sandbox.read("train.py")


@pytest.mark.parametrize("path", ["stream.py", "README.md", "conftest.py", "new.txt"])
def test_files_that_a_patch_may_not_touch_are_protected(workspace: Workspace, path: str) -> None:
    assert use(workspace, "write_file", path=path, content="x = 1\n")[0] == "PROTECTED"


def test_an_edit_that_breaks_the_syntax_is_not_made(workspace: Workspace) -> None:
    before = workspace.sandbox.read("train.py")
    assert use(workspace, "edit_file", path="train.py", old_str="LEARNING_RATE = 1.0", new_str="LR = (")[0] == "SYNTAX"
    assert use(workspace, "write_file", path="train.py", content="def f(:\n")[0] == "SYNTAX"
    assert workspace.sandbox.read("train.py") == before


def test_a_file_that_changed_after_it_was_read_must_be_read_again(workspace: Workspace) -> None:
    use(workspace, "read_file", path="train.py")
    use(workspace, "bash", command="echo '# more' >> train.py")
    edit = {"path": "train.py", "old_str": "LEARNING_RATE = 1.0", "new_str": "LEARNING_RATE = 2.0"}
    assert use(workspace, "edit_file", **edit)[0] == "STALE"
    use(workspace, "read_file", path="train.py")
    assert use(workspace, "edit_file", **edit)[0] == ""


def test_a_file_that_is_too_large_is_not_written(workspace: Workspace) -> None:
    assert use(workspace, "write_file", path="train.py", content="#" * 300_000)[0] == "TOO_LARGE"


def test_a_written_file_is_there_as_given(workspace: Workspace) -> None:
    assert use(workspace, "write_file", path="model.py", content="# größer\n")[0] == ""
    assert workspace.sandbox.read("model.py").decode() == "# größer\n"
