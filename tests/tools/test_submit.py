"""Only a tree that passed its smoke test, and may be handed in, is handed in."""

from __future__ import annotations

import json

from xar_agent.tools.observation import Observation
from xar_agent.tools.toolbox import make_tools
from xar_agent.tools.workspace import Workspace, allowed_part


def use(workspace: Workspace, name: str, **arguments: object) -> Observation:
    """One tool call."""
    return next(tool for tool in make_tools(workspace) if tool.name == name).observe(**arguments)


def raise_lr(workspace: Workspace, value: str = "3.0") -> None:
    """A change that trains."""
    text = workspace.sandbox.read("train.py").decode()
    assert "LEARNING_RATE = 1.0" in text
    workspace.write_text("train.py", text.replace("LEARNING_RATE = 1.0", f"LEARNING_RATE = {value}"))


def test_a_submission_needs_a_change_and_a_smoke_test_of_that_very_tree(workspace: Workspace) -> None:
    assert use(workspace, "submit_run", message="x").error == "INTEGRITY"
    raise_lr(workspace)
    assert use(workspace, "submit_run", message="x").error == "SMOKE_STALE"
    passed = use(workspace, "smoke_test")
    assert json.loads(passed.text)["passed"] is True
    assert not passed.ends
    use(workspace, "bash", command="echo '# later' >> model.py")
    assert use(workspace, "submit_run", message="x").error == "SMOKE_STALE"
    use(workspace, "bash", command="sed -i '$d' model.py")
    submitted = use(workspace, "submit_run", message="raise it")
    assert submitted.error == ""
    assert submitted.ends


def test_a_failed_smoke_test_says_class_place_and_log(workspace: Workspace) -> None:
    raise_lr(workspace, "1.0\nNOTHING = [][1]")
    result = use(workspace, "smoke_test")
    body = json.loads(result.text)
    assert body["passed"] is False
    assert result.error == body["class"] == "CODE"
    assert body["file"] == "train.py"
    assert body["line"] == 17
    assert "IndexError" in body["log"]
    assert use(workspace, "submit_run", message="x").error == "SMOKE_STALE"


def test_a_change_of_a_protected_file_by_bash_is_seen_at_smoke_and_submit(workspace: Workspace) -> None:
    raise_lr(workspace)
    use(workspace, "bash", command="echo '# x' >> stream.py")
    assert use(workspace, "smoke_test").error == "INTEGRITY"
    assert use(workspace, "submit_run", message="x").error == "INTEGRITY"


def test_the_part_of_a_tree_that_a_patch_may_hold_is_kept(workspace: Workspace) -> None:
    raise_lr(workspace)
    use(
        workspace,
        "bash",
        command="echo '# x' >> stream.py; head -c 99 /dev/urandom > blob; ln -s /etc here; mv model.py m2.py",
    )
    patch = allowed_part(workspace.bench, workspace.tree())
    assert patch.files == ("model.py", "train.py")
    assert "+LEARNING_RATE = 3.0" in patch.diff


def test_nothing_is_submitted_over_budget(workspace: Workspace) -> None:
    raise_lr(workspace)
    workspace.over_budget = lambda: "budget of 5 tokens reached"
    assert use(workspace, "submit_run", message="x").error == "BUDGET"


def test_without_submission_a_passing_smoke_test_ends_the_episode(workspace: Workspace) -> None:
    workspace.submits = False
    assert [tool.name for tool in make_tools(workspace, submits=False)][-1] == "smoke_test"
    assert not use(workspace, "smoke_test").ends, "nothing has changed yet"
    raise_lr(workspace)
    assert use(workspace, "smoke_test").ends
