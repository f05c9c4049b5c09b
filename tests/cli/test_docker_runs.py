"""Ideas and diffs end to end with every command in a container of the CPU image."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xar_agent.envs.spec import load_env

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_cpu_image")]

SMALLER = {
    "budget = 1351680": "budget = 61440",
    "val_tokens = 98304": "val_tokens = 4096",
    "smoke_rows = 64": "smoke_rows = 16",
}


def call(name: str, **arguments: object) -> dict[str, Any]:
    return {"calls": [{"name": name, "arguments": arguments}]}


def write_script(path: Path, old: str, new: str) -> str:
    """The name of a model that looks around, replaces one text in train.py, smoke-tests and submits."""
    look = "id -u; ls -A ~ / /root /home /run/docker.sock /var/run/docker.sock; cat /proc/*/environ | tr '\\0' '\\n'"
    replies = [
        call("bash", command=look),
        call("edit_file", path="train.py", old_str=old, new_str=new),
        call("smoke_test"),
        call("submit_run", message=f"{old} -> {new}"),
    ]
    path.write_text(json.dumps({"replies": replies}))
    return f"scripted/{path}"


def containers_over(folder: Path) -> list[str]:
    """Containers, alive or not, that show something of this folder."""
    from xar_agent.sandbox.engine import connect

    with contextlib.closing(connect()) as client:
        found = client.containers(all=True)
    return [one["Id"] for one in found if any(str(bind["Source"]).startswith(str(folder)) for bind in one["Mounts"])]


def test_an_idea_becomes_a_score_in_containers_and_leaves_none(
    xar: Any, tmp_path: Path, runs_dir: Path, planted_key: str, leaks: Callable[[Path, str], list[Path]]
) -> None:
    model = write_script(tmp_path / "script.json", "LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")
    sandbox = ("--sandbox", "docker")
    ended = xar("implement", "Raise the learning rate", "--env", "toy", "--model", model, *sandbox, "--json", "--debug")
    assert ended.code == 0, ended.err
    found = ended.json
    assert (found["sandbox"], found["outcome"], found["job"]["state"]) == ("docker", "submitted", "succeeded")
    assert found["evaluation"]["valid"], found["evaluation"]
    assert "+LEARNING_RATE = 3.0" in Path(found["patch_path"]).read_text()
    looked = xar("replay", Path(found["trajectory_path"]).parent, "--json").out
    assert "1000" in looked
    assert "docker.sock\\n" not in looked
    assert leaks(runs_dir, planted_key) == []
    assert containers_over(runs_dir) == []


def test_a_small_gpt_is_trained_with_the_images_torch_and_scored(
    xar: Any, tmp_path: Path, user_cache: Path, runs_dir: Path
) -> None:
    model = write_script(tmp_path / "script.json", "LEARNING_RATE = 3e-3", "LEARNING_RATE = 4e-3")
    env = small_nanogpt(tmp_path / "nanogpt")
    sandbox = ("--sandbox", "docker")
    ended = xar("implement", "Raise the learning rate", "--env", f"{env}/", "--model", model, *sandbox, "--json")
    if ended.code == 3 and "data" in ended.err:
        pytest.skip(f"the data set cannot be prepared here: {ended.err}")
    assert ended.code == 0, ended.err
    found = ended.json
    assert (found["sandbox"], found["smoke"]["passed"], found["job"]["state"]) == ("docker", True, "succeeded")
    assert found["evaluation"]["valid"], found["evaluation"]
    assert 5.0 < found["evaluation"]["value"] < 6.9  # ln 1024 = 6.93 is a guess
    assert containers_over(runs_dir) == []


def small_nanogpt(folder: Path) -> Path:
    """The environment at a twentieth of its size."""
    shutil.copytree(load_env("nanogpt").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    text = (folder / "env.toml").read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "env.toml").write_text(text)
    return folder


@pytest.mark.bwrap
def test_a_seed_gives_the_same_score_in_a_container_as_in_bubblewrap(
    xar: Any, make_patch: Callable[[str, str], Path]
) -> None:
    patch = make_patch("LEARNING_RATE = 1.0\n", "LEARNING_RATE = 3.0\n")
    values = []
    for backend in ("docker", "bubblewrap"):
        ended = xar("evaluate", patch, "--env", "toy", "--seed", "5", "--sandbox", backend, "--json")
        assert ended.code == 0, ended.err
        assert ended.json["sandbox"] == backend
        values.append(ended.json["evaluation"]["value"])
    assert values[0] == values[1]
