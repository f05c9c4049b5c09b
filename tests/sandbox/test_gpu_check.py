"""``doctor --gpu``'s check: what it says where there is no GPU, and what a real one must show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_gpus import make_this_machine

from xar_agent.errors import ConfigError
from xar_agent.sandbox.gpu_check import check_gpus, report
from xar_agent.sandbox.gpu_driver import Device
from xar_agent.sandbox.gpus import devices

CHECK = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "check.py"
DEVICE = Device("GPU-1", 0, 2, "Made Accelerator", 80_000)
GOOD = {
    "nodes": ["/dev/nvidia-uvm", "/dev/nvidia2", "/dev/nvidiactl"],
    "n_visible": 1,
    "name": "Made Accelerator",
    "uuid": "1",
    "right": True,
    "tflops": 612.3,
}


def test_a_good_device_is_reported_with_its_speed() -> None:
    found = report("bubblewrap", DEVICE, GOOD)
    assert found.ok
    assert found.line == "Made Accelerator: 612 TFLOP/s, nvidia2 alone can be reached"


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (
            {"nodes": ["/dev/nvidia2", "/dev/nvidia3"]},
            "the device nodes inside are nvidia2, nvidia3, not nvidia2 alone",
        ),
        ({"nodes": []}, "the device nodes inside are none, not nvidia2 alone"),
        ({"n_visible": 8}, "8 devices can be reached where one was leased"),
        ({"uuid": "GPU-7"}, "the device inside is GPU-7, not the leased GPU-1"),
        ({"right": False}, "the product of two matrices is wrong"),
        ({"why": "torch 2.0 there is built without CUDA", "right": None}, "torch 2.0 there is built without CUDA"),
    ],
)
def test_what_is_wrong_is_said(seen: dict[str, object], line: str) -> None:
    found = report("docker", DEVICE, {**GOOD, **seen})
    assert (found.ok, found.line) == (False, line)


@pytest.mark.bwrap
def test_without_a_gpu_it_says_so() -> None:
    if devices():
        pytest.skip("this machine has a GPU")
    found = check_gpus("bubblewrap")
    assert (found.ok, found.backend) == (False, "bubblewrap")
    assert "1 GPU wanted, none can be used here" in found.line
    with pytest.raises(ConfigError):
        check_gpus("nonsense")


def test_the_record_of_a_machine_without_a_gpu_is_not_written(tmp_path: Path) -> None:
    if devices():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, CHECK, "--out", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert re.fullmatch(
        r"no GPU can be used on this machine \(.*\): nothing was checked, nothing written\n", done.stderr
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.bwrap
@pytest.mark.torch
def test_a_torch_without_cuda_and_a_back_end_without_devices_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    make_this_machine(monkeypatch, tmp_path, 2)
    found = check_gpus("bubblewrap")
    assert not found.ok
    assert [node for node in found.nodes if re.fullmatch(r"/dev/nvidia\d", node)] == ["/dev/nvidia0"]
    if "+cpu" in importlib.metadata.version("torch"):
        assert "is built without CUDA" in found.line
        assert "install torch with CUDA" in found.hint
    assert "cannot show a job its own GPUs" in check_gpus("process").line
    assert len(devices()) == 2
