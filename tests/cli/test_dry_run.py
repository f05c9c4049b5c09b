"""A dry run tells what would be done and what is missing, where nothing of it could be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xar_agent.envs.spec import load_env
from xar_agent.jobs.data import prepare_data

IDEA = "raise the learning rate"


def no_file_in(folder: Path) -> bool:
    return not any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.torch
def test_eight_gpus_need_not_be_there_to_tell_what_would_run_on_them(xar: Any, isolated: Path) -> None:
    # Most of the time goes to the import of torch.
    ended = xar("implement", IDEA, "--env", "nanogpt", "--preset", "full", "--dry-run", "--json", timeout_s=600)
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["gpus"]["needed"] == 8
    assert found["job"]["command"][1:] == [
        *("-P", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", "8", "/xar/launch.py", "train.py"),
    ]
    assert found["job"]["environment"]["XAR_BUDGET"] == "1500"
    assert found["job"]["limits"]["memory_mib"] == 256 * 1024
    assert found["memory"]["figures"]["parameters"] == pytest.approx(124.4e6, rel=0.001)
    assert 20e9 < found["memory"]["figures"]["with_overhead_bytes"] < 80e9
    assert found["data"]["budget_tokens"] == pytest.approx(1500 * found["memory"]["tokens_per_s"])
    assert not found["data"]["prepared"]
    assert found["data"]["val_tokens_wanted"] == 10_485_760
    if found["gpus"]["present"] < 8:
        assert "8 GPUs wanted" in found["missing"]
    assert no_file_in(isolated / "runs")
    assert no_file_in(isolated / "cache")


def test_a_patch_of_ones_own_has_a_dry_run_too(xar: Any, isolated: Path, make_patch: Any) -> None:
    patch = make_patch("BATCH_SIZE = 8 ", "BATCH_SIZE = 4 ")
    ended = xar("evaluate", patch, "--env", "toy", "--dry-run")
    assert ended.code == 0, ended.err
    assert "a given patch" in ended.out
    assert "/xar/launch.py train.py" in ended.out
    assert "not prepared" in ended.out
    assert no_file_in(isolated / "runs")


def test_prepared_data_is_named_with_its_tokens_and_how_often_they_would_be_read(xar: Any) -> None:
    assert xar("implement", IDEA, "--env", "toy", "--dry-run", "--json").json["data"]["passes"] is None
    prepare_data(load_env("toy"))
    found = xar("implement", IDEA, "--env", "toy", "--dry-run", "--json").json["data"]
    assert found["prepared"]
    assert found["corpus"] == "toy"
    assert found["tokens"]["val"] >= found["val_tokens_wanted"]
    assert 0 < found["passes"] < 1


def test_a_source_that_is_not_there_is_said(xar: Any, tmp_path: Path) -> None:
    ended = xar("implement", IDEA, "--env", "toy", "--data", str(tmp_path / "nowhere"), "--dry-run", "--json")
    assert ended.code == 0
    assert "no data in" in ended.json["data"]["problem"]
    assert ended.json["data"]["source"] == str(tmp_path / "nowhere")


def test_ones_own_data_is_what_the_environments_program_gets(xar: Any, tmp_path: Path) -> None:
    np.zeros(1000, np.uint16).tofile(tmp_path / "mine.bin")
    ended = xar(
        "envs", "calibrate", "toy", "--seeds", "2", "--sandbox", "process", "--data", str(tmp_path / "mine.bin")
    )
    assert ended.code == 3
    assert f"--source {tmp_path / 'mine.bin'}" in ended.err
