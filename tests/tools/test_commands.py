"""bash and search, in the real sandboxes."""

from __future__ import annotations

import time

import pytest

from xar_agent.tools.observation import Observation
from xar_agent.tools.search import search
from xar_agent.tools.toolbox import make_tools
from xar_agent.tools.workspace import Workspace

both = pytest.mark.parametrize(
    "toy_bench", [pytest.param("bubblewrap", marks=pytest.mark.bwrap), "process"], indirect=True
)


def use(workspace: Workspace, name: str, **arguments: object) -> Observation:
    """One tool call."""
    return next(tool for tool in make_tools(workspace) if tool.name == name).observe(**arguments)


@both
def test_a_failing_command_is_a_result_with_its_exit_code(workspace: Workspace) -> None:
    result = use(workspace, "bash", command="echo hello; exit 3")
    assert (result.error, result.text) == ("", "exit code 3\nhello\n")


@both
def test_a_command_that_does_not_end_is_stopped_with_its_output_so_far(workspace: Workspace) -> None:
    begun = time.monotonic()
    result = use(workspace, "bash", command="echo begun; setsid sleep 60 & sleep 60", timeout_s=1)
    assert result.error == "TIMEOUT"
    assert "begun" in result.text
    assert time.monotonic() - begun < 6


def test_long_output_is_cut_in_the_middle_and_the_whole_can_be_read_on(workspace: Workspace) -> None:
    result = use(workspace, "bash", command="seq 1 20000")
    assert len(result.text) < 10_000
    assert "\n1\n" in result.text
    assert "20000" in result.text
    assert result.full == "out/logs/bash-1.log"
    assert "10000" in use(workspace, "read_file", path=result.full, start_line=9990, max_lines=20).text


def test_kept_output_is_no_part_of_the_patch(workspace: Workspace) -> None:
    use(workspace, "bash", command="seq 1 20000")
    assert workspace.patch().files == ()


def test_a_planted_link_does_not_make_the_host_write_elsewhere(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    result = use(workspace, "bash", command=f"rm -rf out; ln -s {outside} out; seq 1 20000")
    assert result.full == ""
    assert list(outside.iterdir()) == []


def test_the_working_folder_cannot_lead_out(workspace: Workspace) -> None:
    assert use(workspace, "bash", command="ls", cwd="../..").error == "OUTSIDE_WORKSPACE"


@both
def test_search_names_file_and_line(workspace: Workspace) -> None:
    result = use(workspace, "search", pattern=r"^LEARNING_RATE\s*=")
    assert result.text.startswith("train.py:")
    assert "LEARNING_RATE = 1.0" in result.text


def test_search_stops_at_its_limit_and_keeps_to_the_glob(workspace: Workspace) -> None:
    lines = use(workspace, "search", pattern="e", glob="*.py", max_hits=5).text.splitlines()
    assert lines[-1] == "[stopped at 5]"
    assert all(".py:" in line for line in lines[:-1])


def test_a_bad_pattern_and_one_that_never_ends_are_refused(workspace: Workspace) -> None:
    assert use(workspace, "search", pattern="(").error == "BAD_REGEX"
    use(workspace, "write_file", path="model.py", content=f"x = '{'a' * 60}'\n")
    assert search(workspace, "(a+)+$", "model.py", timeout_s=1.0).error == "TIMEOUT"


def test_an_empty_pattern_gives_an_outline_or_a_list_of_files(workspace: Workspace) -> None:
    assert "def learning_rate" in use(workspace, "search", pattern="", path="train.py").text
    assert "stream.py (" in use(workspace, "search", pattern="").text


def test_nothing_found_is_no_error(workspace: Workspace) -> None:
    assert use(workspace, "search", pattern="no_such_word").text == "no match"
