"""What isolating back ends keep from a command: secrets, files, processes, network."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from backends import ISOLATING
from scan import OpenBox

from xar_agent.sandbox import Bind, Limits, Sandbox, probe

pytestmark = pytest.mark.parametrize("backend", ISOLATING, indirect=True)


def test_no_secret_of_ours_is_readable(box: Sandbox, planted_key: str) -> None:
    look = "env; cat /proc/*/environ /proc/*/cmdline; grep -rs {k} /tmp /etc /workspace /run /var /home; echo end"
    needle = planted_key[3:12]
    shown = box.exec(["sh", "-c", look.format(k=f"[{needle[0]}]{needle[1:]}")], max_bytes=1 << 20).output
    assert "PATH=" in shown
    assert shown.endswith("end\n")
    assert needle not in shown


def test_only_what_is_listed_is_there(box: Sandbox) -> None:
    names = set(box.exec(["ls", "/"]).output.split())
    system = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "proc", "dev", "sys", "tmp", "workspace"}
    interpreters = {Path(sys.prefix).parts[1], Path(sys.base_prefix).resolve().parts[1]}
    if box.info.image:
        assert names <= system | {"boot", "home", "media", "mnt", "opt", "root", "run", "srv", "var"}
        assert box.exec(["ls", "-A", "/home", "/boot", "/run"]).output == "/boot:\n\n/home:\n\n/run:\nxar-driver.sock\n"
        return
    assert names <= system | interpreters
    if "home" in names or "root" in names:  # then only as the way to the interpreter
        shown = box.exec(["ls", "-A", str(Path(sys.base_prefix).parent)]).output.split()
        assert shown == [Path(sys.base_prefix).name]


def test_the_repository_checkout_is_not_there(box: Sandbox) -> None:
    checkout = Path(__file__).resolve().parents[2]
    assert box.exec(["ls", str(checkout / "sandbox")]).exit_code != 0


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/etc/x", "/dev/x", "/proc/sys/kernel/hostname", sys.prefix + "/x"])
def test_the_system_is_read_only(box: Sandbox, path: str) -> None:
    assert box.exec(["sh", "-c", f"echo x > {path}"]).exit_code != 0


def test_a_read_only_workspace_and_bind_stay_as_they_are(open_box: OpenBox, workspace: Path, tmp_path: Path) -> None:
    workspace.chmod(0o755)
    (workspace / "f").write_text("base")
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    binds = (Bind(tmp_path / "data", "/data"), Bind(tmp_path / "out", "/workspace/out", writable=True))
    box = open_box(workspace_writable=False, binds=binds)
    assert box.exec(["sh", "-c", "cat f; echo x > f"]).output.startswith("base")
    for path in ("g", "/data/g"):
        assert box.exec(["touch", path]).exit_code != 0
    assert box.exec(["touch", "out/g"]).exit_code == 0
    assert (workspace / "f").read_text() == "base"
    assert (tmp_path / "out" / "g").exists()


def test_no_rights_are_left(box: Sandbox) -> None:
    status = dict(line.split(":", 1) for line in box.exec(["cat", "/proc/self/status"]).output.splitlines())
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert int(status["NoNewPrivs"]) == 1
    assert int(status["Uid"].split()[0]) != 0


def test_other_processes_cannot_be_seen(box: Sandbox) -> None:
    assert len(box.exec(["sh", "-c", "ls -d /proc/[0-9]*"]).output.split()) <= 5


def test_no_descriptor_of_ours_is_open_inside(box: Sandbox) -> None:
    shown = box.exec([box.info.python, "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"])
    assert shown.output == "[0, 1, 2]\n"


CONNECT = """
import socket, sys
family, address = sys.argv[1], sys.argv[2]
try:
    if family == "inet":
        socket.create_connection((address, int(sys.argv[3])), timeout=3)
    else:
        socket.socket(socket.AF_UNIX).connect("\\0" + address)
except OSError as error:
    sys.exit(f"refused: {error}")
"""


def test_the_network_is_off(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = box.exec([box.info.python, "-c", CONNECT, "inet", "127.0.0.1", port])
        assert (result.exit_code, result.output[:8]) == (1, "refused:")
    assert box.exec([box.info.python, "-c", CONNECT, "inet", "192.0.2.1", "80"]).exit_code == 1


def test_abstract_sockets_of_the_host_are_out_of_reach(box: Sandbox) -> None:
    name = f"xar-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        assert box.exec([box.info.python, "-c", CONNECT, "unix", name]).exit_code == 1


def test_loopback_inside_works(box: Sandbox) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert box.exec([box.info.python, "-c", code]).exit_code == 0


def test_shared_memory_works_and_is_bounded(box: Sandbox) -> None:
    assert box.exec(["sh", "-c", "echo x > /dev/shm/f && cat /dev/shm/f"]).output == "x\n"
    assert box.exec(["sh", "-c", "df -m --output=size /dev/shm | tail -1"]).output.split() == ["512"]


def test_two_sandboxes_do_not_share_their_process_limit(open_box: OpenBox, tmp_path: Path, marker: str) -> None:
    (tmp_path / "other").mkdir()
    limits = Limits(processes=16)
    first, second = open_box(limits=limits), open_box(limits=limits, workspace=tmp_path / "other")
    first.spawn(
        ["sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep {marker} & done; wait"], stderr_path=tmp_path / "e"
    )
    assert second.exec(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1 & done; wait"]).output == ""


def test_what_the_back_end_claims_is_what_these_tests_show(backend: str) -> None:
    claims = probe(backend).capabilities
    assert (claims.network_off, claims.pid_ns, claims.readonly, claims.secrets_hidden) == (True, True, True, True)
