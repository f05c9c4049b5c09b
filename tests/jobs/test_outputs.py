"""What a run left behind is taken without following links, opening odd files or filling the host."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xar_agent.jobs import outputs
from xar_agent.jobs.outputs import BadOutput, CurveFollower, collect_checkpoint, parse_curve_line, read_curve


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / "out").mkdir(parents=True)
    return folder


def test_checkpoint_files_are_copied_and_nothing_else(workspace: Path, tmp_path: Path) -> None:
    (workspace / "out" / "checkpoint.pt").write_bytes(b"weights")
    (workspace / "out" / "checkpoint.json").write_bytes(b"{}")
    (workspace / "out" / "notes.txt").write_bytes(b"no")
    digest = collect_checkpoint(workspace, tmp_path / "taken")
    assert {p.name: p.read_bytes() for p in (tmp_path / "taken").iterdir()} == {
        "checkpoint.pt": b"weights",
        "checkpoint.json": b"{}",
    }
    assert len(digest) == len(hashlib.sha256().hexdigest())
    (workspace / "out" / "checkpoint.pt").write_bytes(b"Weights")
    assert collect_checkpoint(workspace, tmp_path / "again") != digest


def test_no_checkpoint_says_so(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOutput, match="wrote no out/checkpoint"):
        collect_checkpoint(workspace, tmp_path / "taken")
    (workspace / "out").rmdir()
    with pytest.raises(BadOutput, match="wrote no out/checkpoint"):
        collect_checkpoint(workspace, tmp_path / "taken")


def test_links_pipes_and_folders_are_refused(workspace: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host")
    path = workspace / "out" / "checkpoint.pt"
    path.symlink_to(secret)
    with pytest.raises(BadOutput, match="link"):
        collect_checkpoint(workspace, tmp_path / "a")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadOutput, match="not a regular file"):
        collect_checkpoint(workspace, tmp_path / "b")
    path.unlink()
    path.mkdir()
    with pytest.raises(BadOutput, match="not a regular file"):
        collect_checkpoint(workspace, tmp_path / "c")


def test_an_out_folder_that_is_a_link_is_refused(workspace: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "checkpoint.pt").write_text("host")
    (elsewhere / "metrics.jsonl").write_text('{"step": 1, "tokens": 1, "loss": 1}\n')
    (workspace / "out").rmdir()
    (workspace / "out").symlink_to(elsewhere)
    with pytest.raises(BadOutput):
        collect_checkpoint(workspace, tmp_path / "taken")
    follower = CurveFollower(workspace, None)
    follower.finish()
    assert not follower.points


def test_too_large_and_too_many_are_refused(workspace: Path, tmp_path: Path) -> None:
    sparse = workspace / "out" / "checkpoint.pt"
    with sparse.open("wb") as file:
        file.truncate((5 << 20) + 1)
    with pytest.raises(BadOutput, match="larger than allowed"):
        collect_checkpoint(workspace, tmp_path / "a", max_bytes=5 << 20)
    sparse.unlink()
    for i in range(outputs.MAX_CHECKPOINT_FILES + 1):
        (workspace / "out" / f"checkpoint-{i}").write_text("x")
    with pytest.raises(BadOutput, match="17 files"):
        collect_checkpoint(workspace, tmp_path / "b")


def test_the_curve_is_followed_while_it_grows_and_copied(workspace: Path, tmp_path: Path) -> None:
    follower = CurveFollower(workspace, tmp_path / "copy.jsonl")
    assert follower.poll() is None
    path = workspace / "out" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 1, "tokens": 10, "loss": 4.5, "lr": 0.1}\n{"step": 2, "tok')
        file.flush()
        first = follower.poll()
        assert first is not None
        assert (first.step, first.tokens, first.loss) == (1, 10, 4.5)
        file.write('ens": 20, "loss": NaN}\nnonsense\n')
    follower.finish()
    assert [(p.step, p.loss) for p in follower.points] == [(1, 4.5), (2, None)]
    assert read_curve(tmp_path / "copy.jsonl") == tuple(follower.points)
    assert json.loads((tmp_path / "copy.jsonl").read_text().splitlines()[0])["lr"] == 0.1


def test_an_endless_curve_is_cut_off(workspace: Path, tmp_path: Path) -> None:
    path = workspace / "out" / "metrics.jsonl"
    path.write_text('{"step": 1, "tokens": 1, "loss": 1.0}\n' * 5000)
    follower = CurveFollower(workspace, tmp_path / "copy", max_bytes=10_000)
    follower.finish()
    assert len(follower.points) <= 10_000 // 38
    assert (tmp_path / "copy").stat().st_size <= 20_000


def test_a_line_without_an_end_is_dropped_and_the_next_one_read(workspace: Path) -> None:
    path = workspace / "out" / "metrics.jsonl"
    path.write_text("x" * 2_500_000 + '\n{"step": 3, "tokens": 1, "loss": 2}\n')
    follower = CurveFollower(workspace, None)
    for _ in range(5):
        follower.poll()
    assert [p.step for p in follower.points] == [3]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    line=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_line_is_parsed_or_dropped(line: bytes) -> None:
    values = parse_curve_line(line)
    assert values is None or json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    "line", ['{"step": 1e400}', '{"step": true, "loss": 1}', '{"step": -1}', '{"step": "1"}', "[]", "1"]
)
def test_odd_steps_are_dropped(line: str) -> None:
    assert parse_curve_line(line.encode()) is None


@pytest.mark.parametrize("line", [rb'{"step": 1, "\ud800": 1}', rb'{"step": 1, "\udfff\ud800x": 2.5}'])
def test_half_a_character_in_the_curve_is_kept_out_of_the_copy(workspace: Path, tmp_path: Path, line: bytes) -> None:
    (workspace / "out" / "metrics.jsonl").write_bytes(line + b"\n")
    follower = CurveFollower(workspace, tmp_path / "copy.jsonl")
    follower.finish()
    assert [point.step for point in follower.points] == [1]
    assert "?" in (tmp_path / "copy.jsonl").read_text()


def test_folders_that_a_run_has_locked_are_opened_up_without_following_a_link(workspace: Path, tmp_path: Path) -> None:
    (workspace / "out").chmod(0)
    workspace.chmod(0)
    outputs.open_up(workspace)
    assert [path.stat().st_mode & 0o777 for path in (workspace, workspace / "out")] == [0o755, 0o755]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (workspace / "out").rmdir()
    (workspace / "out").symlink_to(elsewhere)
    outputs.open_up(workspace)
    assert elsewhere.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_out_folder_that_cannot_be_read_is_bad_output(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        workspace = Path(name) / "workspace"
        (workspace / "out").mkdir(parents=True)
        (workspace / "out").chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(BadOutput, match="cannot be read"):
                collect_checkpoint(workspace, Path(name) / "taken")
            with pytest.raises(BadOutput, match="cannot be entered"):
                outputs.open_up(workspace)
        finally:
            os.seteuid(0)
