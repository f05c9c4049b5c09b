"""Wrong input: one line that says what to do, the exit code of the contract, nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

IDEA = "raise the learning rate to 3.0"
WRONG = {
    "unknown environment": (["implement", IDEA, "--env", "mars"], "mars", "nanogpt"),
    "unknown preset": (["implement", IDEA, "--env", "toy", "--preset", "huge"], "huge", "default"),
    "empty idea": (["implement", "  \n", "--env", "toy"], "empty", "say"),
    "unknown sandbox": (["implement", IDEA, "--env", "toy", "--sandbox", "jail"], "jail", "--help"),
    "no seeds": (["implement", IDEA, "--env", "toy", "--seeds", "0"], "--seeds", "0"),
    "a budget below zero": (["implement", IDEA, "--env", "toy", "--budget-usd", "-1"], "--budget-usd", "-1"),
    "a parent that is not there": (["implement", IDEA, "--env", "toy", "--parent", "no.patch"], "no.patch", "diff"),
    "a run's name that leads away": (
        ["implement", IDEA, "--env", "toy", "--run", "../x", "--model", "scripted/s.json"],
        "../x",
        "letters",
    ),
    "unknown embedded model": (
        ["implement", IDEA, "--env", "toy", "--model", "local/gpt-9"],
        "gpt-9",
        "qwen2.5-coder-1.5b",
    ),
    "unknown option": (["implement", IDEA, "--fast"], "--fast", "--help"),
    "unknown verb": (["improve"], "improve", "--help"),
    "no idea": (["implement"], "IDEA", "--help"),
    "unknown run": (["runs", "show", "nope"], "nope", "runs"),
    "unknown job": (["jobs", "show", "nope"], "nope", "jobs list"),
    "no episode": (["replay", "nope"], "nope", "runs list"),
    "a patch that is not there": (["evaluate", "no.patch", "--env", "toy"], "no.patch", "diff"),
    "an empty patch": (["evaluate", "-", "--env", "toy"], "empty", "git diff"),
    "a patch without its environment": (["evaluate", "-"], "--env", "--help"),
    "unknown environment to show": (["envs", "show", "mars"], "mars", "toy"),
    "unknown model to fetch": (["models", "fetch", "gpt-9"], "gpt-9", "qwen2.5-coder-1.5b"),
}


def nothing_left(isolated: Path) -> bool:
    return not any((isolated / "runs").iterdir())


@pytest.mark.parametrize(("arguments", "named", "way_on"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_told_in_one_line_with_a_way_on(
    xar: Any, isolated: Path, arguments: list[str], named: str, way_on: str
) -> None:
    (xar.folder / "s.json").write_text('{"replies": []}')
    ended = xar(*arguments, "--json")
    assert ended.code == 2
    (line,) = ended.error_lines
    assert set(ended.json) == {"error", "hint"}
    assert named in ended.json["error"]
    assert way_on in ended.json["hint"]
    assert line == f"error: {ended.json['error']}; {ended.json['hint']}"
    assert nothing_left(isolated)


def test_without_json_nothing_about_an_error_goes_to_stdout(xar: Any) -> None:
    ended = xar("implement", IDEA, "--env", "mars")
    assert (ended.code, ended.out) == (2, "")


def test_a_bad_settings_file_is_named_with_its_key(xar: Any) -> None:
    (xar.folder / "xar.toml").write_text("sedes = 3\n")
    ended = xar("runs", "list")
    assert ended.code == 2
    assert "xar.toml: sedes" in ended.err


def test_a_secret_in_a_wrong_place_is_not_repeated(xar: Any, planted_key: str) -> None:
    ended = xar("implement", IDEA, "--env", f"mars-{planted_key}")
    assert ended.code == 2
    assert planted_key not in ended.out + ended.err


def test_a_traceback_is_shown_with_debug_only(xar: Any) -> None:
    (xar.folder / "xar.toml").write_text("seeds = [\n")
    assert "Traceback" not in xar("runs", "list").err
    assert "Traceback" in xar("runs", "list", "--debug").err


def test_an_unreachable_server_is_a_missing_service_and_leaves_no_run(xar: Any, isolated: Path) -> None:
    env = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": "sk-planted-unreachable-0001"}
    ended = xar("implement", IDEA, "--env", "toy", "--model", "openai/some-model", "--json", env=env)
    assert ended.code == 3
    assert set(ended.json) == {"error", "hint"}
    assert "127.0.0.1:9" in ended.json["error"] + ended.json["hint"]
    assert nothing_left(isolated)


def test_an_embedded_model_that_is_not_the_published_one_is_refused(xar: Any, cache_dir: Path, isolated: Path) -> None:
    fake = cache_dir / "m.gguf"
    fake.write_bytes(b"GGUF" + b"\0" * 1000)
    env = {"XAR_LOCAL_MODEL": str(fake)}
    for arguments in (["models", "check"], ["implement", IDEA, "--env", "toy", "--model", "local/qwen2.5-coder-1.5b"]):
        ended = xar(*arguments, env=env)
        assert ended.code == 3
        assert "m.gguf" in ended.error_lines[-1]
    assert nothing_left(isolated)


def test_a_folder_of_the_users_own_is_neither_taken_for_a_run_nor_removed(xar: Any) -> None:
    mine = xar.folder / "src" / "mine.py"
    mine.parent.mkdir()
    mine.write_text("x = 1\n")
    ended = xar("implement", IDEA, "--env", "toy", "--model", "scripted/s", "--runs-dir", ".", "--run", "src")
    assert ended.code == 2
    assert "is no run" in ended.err
    assert mine.read_text() == "x = 1\n"
    assert [path.name for path in mine.parent.iterdir()] == ["mine.py"]


def test_an_empty_folder_that_was_there_before_stays(xar: Any) -> None:
    (xar.folder / "r").mkdir()
    arguments = ["--env", "toy", "--model", "scripted/s", "--runs-dir", ".", "--run", "r"]
    assert xar("implement", IDEA, *arguments).code == 2
    assert (xar.folder / "r").is_dir()


@pytest.mark.parametrize("url", ["http://h:99999/v1", "http://:80", "http://[::1/v1", "ftp://h/v1"])
def test_an_address_that_cannot_be_one_is_wrong_input(xar: Any, isolated: Path, url: str) -> None:
    env = {"OPENAI_BASE_URL": url}
    ended = xar("implement", IDEA, "--env", "toy", "--model", "openai/m", "--json", env=env)
    assert ended.code == 2
    assert "is not a URL" in ended.json["error"]
    assert nothing_left(isolated)


def test_a_script_that_is_a_folder_is_wrong_input_and_leaves_no_run(xar: Any, isolated: Path) -> None:
    (xar.folder / "s").mkdir()
    ended = xar("implement", IDEA, "--env", "toy", "--model", "scripted/s")
    assert ended.code == 2
    assert any(line.startswith("error: cannot read the script s") for line in ended.error_lines)
    assert nothing_left(isolated)
