"""Which GPUs there are, as a driver says it, and what bubblewrap shows of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_gpus import made_gpus, make_nodes, make_this_machine

from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox import SandboxSpec, open_sandbox, probe
from xar_agent.sandbox.bubblewrap import BubblewrapSandbox
from xar_agent.sandbox.gpu_driver import Device, Found, given_to_us, nodes_as_devices
from xar_agent.sandbox.gpus import Gpus, machine_gpus, require_gpus

FOUR = Found(tuple(Device(f"GPU-{i}{i}-aa", i, i, "made device", 80_000) for i in range(4)))
LIST = "ls -d /dev/nvidia*; echo $CUDA_VISIBLE_DEVICES"
DRIVER = Path(__file__).with_name("made_driver.c")
ASK = """
import sys
from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox.gpus import machine_gpus
gpus = machine_gpus()
try:
    print(*gpus.devices(), *gpus.source().left_out, sep="\\n")
    gpus.check(9)
except CapabilityMissing as error:
    print(error.exit_code, error.message)
"""


@pytest.mark.parametrize(
    ("variables", "left"),
    [
        ({}, "0123"),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, "02"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-33,GPU-11-aa"}, "13"),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "1,nonsense,2"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "MIG-7"}, ""),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "0123"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, "0123"),
        ({"NVIDIA_VISIBLE_DEVICES": "5"}, "0123"),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, ""),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-22-aa,GPU-33-aa"}, "23"),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-22-aa,GPU-33-aa", "CUDA_VISIBLE_DEVICES": "0,2"}, "2"),
    ],
)
def test_an_allocation_is_never_left(variables: dict[str, str], left: str) -> None:
    found = given_to_us(FOUR, variables)
    assert "".join(str(device.index) for device in found.devices) == left
    assert bool(found.left_out) == (len(found.devices) < 4)


def test_a_part_of_a_gpu_is_named_as_what_cannot_be_leased(tmp_path: Path) -> None:
    gpus = Gpus(lambda: given_to_us(FOUR, {"CUDA_VISIBLE_DEVICES": "MIG-7"}), tmp_path / "leases")
    with pytest.raises(CapabilityMissing, match=r"none can be used here; .*part of a GPU \(MIG-7\).*MIG"):
        gpus.check(1)


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """Folder with a driver library that answers as the file beside this one says."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver library with")
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(DRIVER)], check=True)
    return tmp_path


def asked(driver: Path, **variables: str) -> str:
    """What a process with this driver says of its devices."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), **variables}
    command = [sys.executable, "-W", "error", "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_driver_names_the_devices_their_nodes_and_those_that_cannot_be_used(driver: Path) -> None:
    lines = asked(driver).splitlines()
    assert lines[0] == "Device(uuid='GPU-made-0', index=0, minor=7, name='Made Accelerator', memory_mib=81920)"
    assert lines[1].startswith("Device(uuid='GPU-made-1', index=1, minor=6")
    assert re.match(r"GPU 2 \(GPU-made-2\) is partitioned \(MIG\).*nvidia-smi -i 2 -mig 0", lines[2])
    assert lines[3].startswith("GPU 3 cannot be used: ")
    assert lines[4].startswith("3 9 GPUs wanted, 2 can be used here; GPU 2 (GPU-made-2) is partitioned")
    assert "Device" not in asked(driver, CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("18", r"\n?3 the NVIDIA driver does not work: .*[Mm]ismatch"),
        ("9", r"\n?NVIDIA's libraries are installed, but no GPU's driver is loaded\n3 9 GPUs wanted, none can be used"),
    ],
)
def test_a_broken_driver_is_said_in_one_line(driver: Path, code: str, says: str) -> None:
    assert re.match(says, asked(driver, MADE_NVML_INIT=code))


def test_without_a_driver_there_is_no_device(tmp_path: Path) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    assert machine_gpus().devices() == ()
    require_gpus(probe("process"), 0)
    with pytest.raises(CapabilityMissing, match="1 GPU wanted, none can be used here") as caught:
        require_gpus(probe("process"), 1)
    assert caught.value.exit_code == 3
    assert "preset" in caught.value.hint


def test_a_back_end_that_cannot_hide_devices_says_so_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_this_machine(monkeypatch, tmp_path, 1)
    with pytest.raises(CapabilityMissing, match="the process sandbox cannot show a job its own GPUs"):
        require_gpus(probe("process"), 1)


@pytest.mark.bwrap
def test_only_the_leased_nodes_are_inside_whatever_the_program_unsets(workspace: Path, tmp_path: Path) -> None:
    gpus = made_gpus(tmp_path, 4)
    with gpus.lease(2) as leased, gpus.lease(1):
        uuids = tuple(device.uuid for device in leased)
        with BubblewrapSandbox(SandboxSpec(workspace=workspace, gpus=uuids), gpus) as box:
            names = ["nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1", "nvidiactl"]
            shown = box.exec(["sh", "-c", LIST]).output.splitlines()
            assert shown == [*(f"/dev/{name}" for name in names), ",".join(uuids)]
            assert box.exec(["env", "-u", "CUDA_VISIBLE_DEVICES", "sh", "-c", "ls /dev/nvidia3"]).exit_code != 0
            assert (
                box.exec(["sh", "-c", "echo x > /dev/nvidia0; cat /dev/nvidia1; echo y > /dev/nvidiactl"]).output == ""
            )
            assert box.exec(["mknod", "/tmp/nvidia3", "c", "195", "3"]).exit_code != 0
            assert box.info.capabilities.gpu


@pytest.mark.bwrap
def test_nodes_are_found_by_the_drivers_minor_number(workspace: Path, tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path / "nodes", 3)
    found = Found((Device("GPU-a", 0, 2, "made device", 0),))
    gpus = Gpus(lambda: found, tmp_path / "leases", nodes)
    with BubblewrapSandbox(SandboxSpec(workspace=workspace, gpus=("GPU-a",)), gpus) as box:
        assert box.exec(["sh", "-c", "ls -d /dev/nvidia[0-9]*"]).output == "/dev/nvidia2\n"


@pytest.mark.bwrap
def test_without_a_lease_no_node_and_no_device_variable_is_inside(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_this_machine(monkeypatch, tmp_path, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert probe("bubblewrap").capabilities.gpu
    with open_sandbox("bubblewrap", SandboxSpec(workspace=workspace)) as box:
        assert box.exec(["sh", "-c", "ls /dev | grep -c nvidia; echo [$CUDA_VISIBLE_DEVICES]"]).output == "0\n[]\n"


@pytest.mark.bwrap
def test_a_driver_library_outside_the_usual_places_comes_along(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = make_this_machine(monkeypatch, tmp_path, 1)
    libraries = tmp_path / "driver"
    libraries.mkdir()
    (libraries / "libcuda.so.1").write_text("of the driver")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{libraries}")
    (device,) = gpus.devices()
    spec = SandboxSpec(workspace=workspace, gpus=(device.uuid,), environment={"CUDA_VISIBLE_DEVICES": "all"})
    with open_sandbox("bubblewrap", spec) as box:
        shown = box.exec(["sh", "-c", "echo $LD_LIBRARY_PATH $CUDA_VISIBLE_DEVICES; cat $LD_LIBRARY_PATH/libcuda.so.1"])
        assert shown.output == f"{libraries} {device.uuid}\nof the driver"


@pytest.mark.bwrap
def test_an_unknown_device_and_one_without_a_node_are_refused(workspace: Path, tmp_path: Path) -> None:
    gpus = made_gpus(tmp_path, 1)
    with pytest.raises(CapabilityMissing, match="there is no GPU GPU-none here"):
        BubblewrapSandbox(SandboxSpec(workspace=workspace, gpus=("GPU-none",)), gpus)
    (known,) = gpus.devices()
    spec = SandboxSpec(workspace=workspace, gpus=(known.uuid,))
    bare = Gpus(lambda: Found((known,)), gpus.folder, tmp_path / "elsewhere")
    with pytest.raises(CapabilityMissing, match=r"has no node .*nvidia0"):
        BubblewrapSandbox(spec, bare).start()


@pytest.mark.bwrap
def test_a_node_that_the_sandboxs_user_may_not_use_is_said_beforehand(workspace: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("commands run as ourselves here")
    gpus = made_gpus(tmp_path, 1)
    (gpus.nodes / "nvidia0").chmod(0o660)
    spec = SandboxSpec(workspace=workspace, gpus=(gpus.devices()[0].uuid,))
    with pytest.raises(CapabilityMissing, match="own user may not use") as caught:
        BubblewrapSandbox(spec, gpus).start()
    assert "0666" in caught.value.hint


def test_made_devices_differ_between_folders(tmp_path: Path) -> None:
    one, two = (nodes_as_devices(make_nodes(tmp_path / name, 2)).devices for name in "ab")
    assert len({device.uuid for device in (*one, *two)}) == 4
