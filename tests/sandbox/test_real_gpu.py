"""What only a real GPU shows: the driver's word, a program on exactly one device, and memory that comes back."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import ISOLATING

from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox import Limits, Sandbox, SandboxSpec, open_sandbox, probe
from xar_agent.sandbox.gpu_check import check_gpus
from xar_agent.sandbox.gpus import Device, devices, lease, leases, require_gpus

pytestmark = [pytest.mark.gpu, pytest.mark.torch]
LIMITS = Limits(memory_mib=16_384)
COUNT = "import torch; print(torch.cuda.device_count(), [torch.zeros(1, device='cuda').item()])"
HOLD = """
import os, time, torch
held = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
if os.fork() == 0:
    os.setsid()
print("held", flush=True)
time.sleep(600)
"""
HELD_BYTES = 1 << 30


@pytest.fixture(params=ISOLATING)
def backend(request: pytest.FixtureRequest) -> str:
    """Each back end that shows single devices here."""
    name = str(request.param)
    try:
        require_gpus(probe(name, gpus=True), 1)
    except CapabilityMissing as error:
        pytest.skip(error.message)
    return name


@pytest.fixture
def leased() -> Iterator[Device]:
    """One device of this machine."""
    with lease(1, timeout_s=60) as (device,):
        yield device


@pytest.fixture
def box(backend: str, workspace: Path, leased: Device) -> Iterator[Sandbox]:
    """A started sandbox with the device."""
    with open_sandbox(backend, SandboxSpec(workspace=workspace, gpus=(leased.uuid,), limits=LIMITS)) as sandbox:
        yield sandbox


def used_bytes(device: Device) -> int:
    """Memory of the device that is in use, as the driver says."""
    import pynvml

    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(device.uuid)).used)
    finally:
        pynvml.nvmlShutdown()


def test_the_devices_are_those_that_the_drivers_own_tool_lists() -> None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        pytest.skip("nvidia-smi is not installed")
    query = [tool, "--query-gpu=uuid,index,name,memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [[word.strip() for word in line.split(",")] for line in said]
    for device in devices():
        assert [device.uuid, str(device.index), device.name, str(device.memory_mib)] in lines
        assert Path(f"/dev/nvidia{device.minor}").is_char_device()


def test_a_product_is_computed_on_exactly_the_leased_device(backend: str) -> None:
    found = check_gpus(backend)
    assert found.ok, found
    assert found.n_visible == 1
    assert found.tflops is not None
    assert found.tflops > 1
    assert leases() == ()


def test_a_program_that_unsets_the_variable_still_has_one_device(box: Sandbox) -> None:
    done = box.exec(["env", "-u", "CUDA_VISIBLE_DEVICES", box.info.python, "-c", COUNT], timeout_s=300)
    assert done.output == "1 [0.0]\n", done


def test_without_a_lease_cuda_finds_nothing(backend: str, workspace: Path) -> None:
    image = probe(backend, gpus=True).image or None
    with open_sandbox(backend, SandboxSpec(workspace=workspace, limits=LIMITS, image=image)) as sandbox:
        script = "import torch; print(torch.cuda.is_available())"
        done = sandbox.exec([sandbox.info.python, "-W", "ignore", "-c", script], timeout_s=300)
        assert done.output.splitlines()[-1] == "False", done
        assert sandbox.exec(["sh", "-c", "ls /dev/nvidia*"]).exit_code != 0


def test_memory_of_the_device_is_free_again_after_the_deadline(box: Sandbox, leased: Device) -> None:
    before = used_bytes(leased)
    done = box.exec([box.info.python, "-c", HOLD], timeout_s=60)
    assert done.stopped_by == "wall"
    assert done.output.count("held") == 2, done
    deadline = time.monotonic() + 5
    while used_bytes(leased) > before + HELD_BYTES // 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert used_bytes(leased) <= before + HELD_BYTES // 4


def test_two_leases_are_two_devices_in_two_sandboxes(backend: str, tmp_path: Path) -> None:
    if len(devices()) < 2:
        pytest.skip("this machine has one GPU")
    script = "import torch; print(torch.cuda.get_device_properties(0).uuid)"
    seen = []
    with lease(2, timeout_s=60) as both:
        for device in both:
            workspace = tmp_path / device.uuid
            workspace.mkdir()
            with open_sandbox(backend, SandboxSpec(workspace, gpus=(device.uuid,), limits=LIMITS)) as sandbox:
                command = ["env", "-u", "CUDA_VISIBLE_DEVICES", sandbox.info.python, "-c", script]
                seen.append("GPU-" + sandbox.exec(command, timeout_s=300).output.strip().removeprefix("GPU-"))
    assert seen == [device.uuid for device in both]
