"""An episode that was recorded is read, and shown without any of its text steering the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from xar_agent.agent.trajectory import TrajectoryWriter
from xar_agent.analysis.episode import find_episode, read_episode
from xar_agent.analysis.replay_view import changed_lines, episode_json, show_episode
from xar_agent.errors import UnknownName

DIFF = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-LR = 1.0\n+LR = 3.0\n"
HOSTILE = "\x1b]0;owned\x07\x1b[2Jshown\u202e"


def reply(step: int, text: str) -> dict[str, object]:
    usage = {"input_tokens": 100, "output_tokens": 20, "cached_tokens": 0, "reasoning_tokens": 0}
    return {"step": step, "text": text, "usage": usage, "latency_s": 1.5, "cost_usd": 0.0}


@pytest.fixture
def episode_dir(tmp_path: Path) -> Path:
    """Two steps: a hostile read, an edit; then the submission."""
    folder = tmp_path / "runs" / "r" / "impl" / "abc"
    folder.mkdir(parents=True)
    writer = TrajectoryWriter(folder, "r")
    writer.append(
        "run_start", idea={"text": f"Raise it {HOSTILE}", "env": "toy"}, model="m", tree="t", messages=[], tools=[]
    )
    writer.append("llm_response", **reply(1, f"I look. {HOSTILE}"))
    writer.append("tool_call", step=1, call_id="c1", name="bash", arguments=json.dumps({"command": f"cat x {HOSTILE}"}))
    shown = "\n".join(f"line {i} {HOSTILE}" for i in range(50))
    writer.append("tool_result", step=1, call_id="c1", error="", summary=f"exit 0 {HOSTILE}", shown=shown)
    writer.append("workspace", step=1, tree="t")
    writer.append("llm_response", **reply(2, ""))
    edit = {"path": "train.py", "old_str": "LR = 1.0", "new_str": "LR = 3.0"}
    writer.append("tool_call", step=2, call_id="c2", name="edit_file", arguments=json.dumps(edit))
    writer.append("tool_result", step=2, call_id="c2", error="", summary="train.py: 1 line", shown="{}")
    writer.append("workspace", step=2, tree="u", diff=DIFF)
    writer.append("run_end", outcome="submitted", exit_reason="done")
    writer.close()
    return folder


def shown(folder: Path, width: int = 100) -> str:
    out = io.StringIO()
    show_episode(
        Console(file=out, width=width, markup=False, highlight=False, force_terminal=False), read_episode(folder)
    )
    return out.getvalue()


def test_every_step_is_shown_with_its_calls_results_and_change(episode_dir: Path) -> None:
    text = shown(episode_dir)
    for part in ("step 1", "bash", "exit 0", "step 2", "edit_file", "path: train.py", "+LR = 3.0", "submitted: done"):
        assert part in text
    assert "2 steps, 200 tokens in, 40 out" in text


def test_hostile_text_in_every_field_reaches_the_terminal_without_escapes(episode_dir: Path) -> None:
    text = shown(episode_dir)
    assert "shown" in text
    assert not any(char in text for char in "\x1b\x07\u202e")


def test_long_outputs_are_folded(episode_dir: Path) -> None:
    text = shown(episode_dir)
    assert "lines left out" in text
    assert "line 25 " not in text


def test_a_narrow_terminal_wraps_and_loses_nothing(episode_dir: Path) -> None:
    text = shown(episode_dir, width=30)
    assert max(len(line) for line in text.splitlines()) <= 30
    assert "+LR = 3.0" in text


def test_the_json_has_the_whole_texts(episode_dir: Path) -> None:
    found = episode_json(read_episode(episode_dir))
    assert "line 25 " in found["steps"][0]["calls"][0]["shown"]
    assert found["end"]["outcome"] == "submitted"
    assert found["tokens"] == {"input": 200, "output": 40}


def test_a_cut_off_episode_is_shown_up_to_where_it_was_cut(episode_dir: Path) -> None:
    path = episode_dir / "trajectory.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + b'{"v":1,"seq":')
    text = shown(episode_dir)
    assert "cut off before its result" in text
    assert "cut off: the record has no end" in text


def test_a_runs_folder_leads_to_its_only_episode(episode_dir: Path) -> None:
    run = episode_dir.parents[1]
    assert find_episode(run) == episode_dir
    (run / "impl" / "def").mkdir()
    (run / "impl" / "def" / "trajectory.jsonl").write_text("")
    with pytest.raises(UnknownName, match="2 episodes"):
        find_episode(run)


def test_a_folder_without_an_episode_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no trajectory\.jsonl") as caught:
        find_episode(tmp_path)
    assert "runs list" in caught.value.hint
    with pytest.raises(UnknownName, match="does not exist"):
        find_episode(tmp_path / "nope")


def test_a_later_step_shows_only_what_it_changed() -> None:
    later = DIFF + "--- a/model.py\n+++ b/model.py\n@@ -1 +1 @@\n-A = 1\n+A = 2\n"
    assert changed_lines(DIFF, later) == ["--- a/model.py", "+++ b/model.py", "@@ -1 +1 @@", "-A = 1", "+A = 2"]
