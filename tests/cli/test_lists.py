"""The verbs that list and show, for a person and for a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import Made, baseline, idea_id, make_run

from xar_agent.jobs.looks import Finding, Look, write_look
from xar_agent.jobs.runs import RunStore

FOUND = Finding("min", (2.40, 2.41, 2.42), (), 1.0, "effect", baseline())
LOST = Finding("min", (2.40, None, 2.42), ("CODE: no luck",), 1.0, "effect", baseline())


def test_environments_are_listed_with_their_presets(xar: Any) -> None:
    found = {env["name"]: env for env in xar("envs", "list", "--json").json["envs"]}
    assert {"nanogpt", "toy"} <= set(found)
    assert found["nanogpt"]["presets"][0] == "cpu"
    assert "nanogpt" in xar("envs", "list").out


def test_an_environment_shows_what_may_change_and_its_baselines(xar: Any) -> None:
    found = xar("envs", "show", "toy", "--json").json
    assert found["editable"] == ["train.py", "model.py"]
    assert found["presets"]["default"]["clock"] == "tokens"
    assert "baseline" in xar("envs", "show", "toy").out


def test_models_are_listed_with_size_and_the_one_in_use(xar: Any) -> None:
    found = xar("models", "list", "--json").json
    (model,) = found["models"]
    assert (model["name"], model["bytes"], model["path"]) == ("qwen2.5-coder-1.5b", 1_117_320_768, None)
    assert found["in_use"]["name"] == "local/qwen2.5-coder-1.5b"


def test_the_models_list_says_why_a_configured_server_cannot_be_used(xar: Any) -> None:
    ended = xar("models", "list", env={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    assert ended.code == 0
    assert "none: the server at http://127.0.0.1:9/v1 does not answer" in ended.out


def test_without_runs_the_lists_are_empty_and_say_how_to_begin(xar: Any) -> None:
    assert xar("runs", "list", "--json").json == {"runs": []}
    assert xar("jobs", "list", "--json").json == {"jobs": []}
    ended = xar("runs", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "xar-agent implement" in ended.err


def test_the_cache_of_the_settings_file_is_used(xar: Any, tmp_path: Path) -> None:
    (xar.folder / "xar.toml").write_text(f'cache_dir = "{tmp_path}/elsewhere"\n')
    models = tmp_path / "elsewhere" / "models"
    models.mkdir(parents=True)
    (models / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf").write_bytes(b"GGUF")
    (model,) = xar("models", "list", "--json", env={"XAR_CACHE": ""}).json["models"]
    assert model["path"].startswith(str(models))


def look(folder: Path, made: Made, finding: Finding | None) -> None:
    """Put a look at the hidden split on record, as ``confirm`` does."""
    with RunStore.open(folder) as store:
        write_look(store, Look(1, 1, idea_id(made), "tree0", "sha", (7, 8, 9), 0.0, finding))


@pytest.mark.parametrize(
    ("finding", "words"), [(FOUND, "confirmed"), (LOST, "invalid on the hidden split"), (None, "confirm was cut off")]
)
def test_a_run_of_confirm_shows_what_its_look_came_to(
    xar: Any, runs_dir: Path, finding: Finding | None, words: str
) -> None:
    given = Made("the patch my.diff", open=True)
    look(make_run(runs_dir, [given], "r"), given, finding)
    shown = xar("runs", "show", "r", env={"COLUMNS": "150"}).out
    assert words in shown
    assert "begun" not in shown


def test_a_run_shows_both_what_the_search_and_what_confirm_found(xar: Any, runs_dir: Path) -> None:
    searched = Made("Raise the learning rate to 0.006.", [2.41])
    look(make_run(runs_dir, [searched], "r"), searched, FOUND)
    assert "better, confirmed" in xar("runs", "show", "r", env={"COLUMNS": "150"}).out
