"""The record of an episode: linear, torn lines tolerated, a tree, and without secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xar_agent.agent.trajectory import FILE_NAME, TrajectoryWriter, active_path, last_complete, read_trajectory
from xar_agent.errors import StoreError, UserError


def write(folder: Path, *kinds: str, parent_id: str | None = None) -> None:
    """Append events that carry only their kind."""
    writer = TrajectoryWriter(folder, "run", parent_id=parent_id)
    for kind in kinds:
        writer.append(kind, step=1)
    writer.close()


def test_each_line_has_the_fields_of_the_format(tmp_path: Path) -> None:
    write(tmp_path, "run_start", "llm_request")
    lines = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert [list(line) for line in lines] == [["v", "seq", "id", "parent_id", "ts", "run_id", "type", "data"]] * 2
    assert [(line["v"], line["seq"], line["parent_id"]) for line in lines] == [(1, 0, None), (1, 1, lines[0]["id"])]


def test_a_torn_last_line_is_left_out_and_cut_away_by_the_next_writer(tmp_path: Path) -> None:
    write(tmp_path, "run_start", "workspace")
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for cut in range(len(whole.splitlines()[0]) + 2, len(whole)):
        path.write_bytes(whole[:cut])
        assert [e.type for e in read_trajectory(tmp_path)] == ["run_start"]
    write(tmp_path, "llm_request")
    assert [(e.seq, e.type) for e in read_trajectory(tmp_path)] == [(0, "run_start"), (1, "llm_request")]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    write(tmp_path, "run_start", "workspace")
    path = tmp_path / FILE_NAME
    path.write_bytes(b"{oops\n" + path.read_bytes())
    with pytest.raises(UserError, match="line 1"):
        read_trajectory(tmp_path)


def test_a_long_text_lies_in_a_blob_and_is_put_back(tmp_path: Path) -> None:
    writer = TrajectoryWriter(tmp_path, "run")
    writer.append("tool_result", shown="ä" * 50_000)
    writer.append("tool_result", shown="ä" * 50_000)
    writer.close()
    assert (tmp_path / FILE_NAME).stat().st_size < 1000
    assert len(list((tmp_path / "blobs").iterdir())) == 1, "equal contents are kept once"
    assert [e.data["shown"] for e in read_trajectory(tmp_path)] == ["ä" * 50_000] * 2


def test_going_on_from_an_earlier_event_makes_a_branch_and_the_active_path_leaves_the_other_out(tmp_path: Path) -> None:
    write(tmp_path, "run_start", "workspace", "llm_request", "llm_response")
    last = last_complete(read_trajectory(tmp_path))
    assert last is not None
    assert last.type == "workspace"
    write(tmp_path, "llm_request", "workspace", parent_id=last.id)
    events = read_trajectory(tmp_path)
    assert len(events) == 6
    assert [e.seq for e in active_path(events)] == [0, 1, 4, 5]


def test_secrets_are_masked_before_they_are_written(tmp_path: Path, planted_key: str) -> None:
    writer = TrajectoryWriter(tmp_path, "run")
    event = writer.append(
        "tool_result", shown=f"key={planted_key}", exec={planted_key: [planted_key]}, long=planted_key * 999
    )
    writer.close()
    assert planted_key not in str(event.data)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or planted_key.encode() not in path.read_bytes()


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    writer = TrajectoryWriter(tmp_path, "run")
    writer.append("tool_result", shown="a\ud800b")
    writer.close()
    assert read_trajectory(tmp_path)[0].data["shown"] == "a?b"


def test_a_folder_that_cannot_be_made_is_a_store_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        TrajectoryWriter(tmp_path / "file", "run")
    assert caught.value.hint


def test_a_file_that_cannot_grow_is_a_store_error(tmp_path: Path) -> None:
    program = f"""
import pathlib, resource
from xar_agent.agent.trajectory import TrajectoryWriter
from xar_agent.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
writer = TrajectoryWriter(pathlib.Path({str(tmp_path)!r}), "run")
try:
    for _ in range(50):
        writer.append("tool_result", shown="x" * 100)
except StoreError as error:
    print(error.hint)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "disk space" in done.stdout, done.stderr
    assert 0 < len(read_trajectory(tmp_path)) < 50, "what was written before is there"
