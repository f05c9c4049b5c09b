"""What a command leaves in the workspace for the host to stumble over: links, pipes, rights, times, and races."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backends import ISOLATING
from scan import OpenBox

from xar_agent.sandbox import Bind, Sandbox

pytestmark = pytest.mark.parametrize("backend", ISOLATING, indirect=True)

AT_ONCE_S = 3.0


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host that anybody may write, so that only the sandbox protects it."""
    path = tmp_path / "canary"
    path.write_text("untouched")
    path.chmod(0o666)
    return path


def at_once(act: Callable[[], object]) -> object:
    """The result, or the refusal; either without waiting."""
    begun = time.monotonic()
    try:
        found = act()
    except OSError as error:
        found = error
    assert time.monotonic() - begun < AT_ONCE_S
    return found


def still_works(box: Sandbox) -> None:
    """An honest command after the attack."""
    result = box.exec(["sh", "-c", "echo in > honest && cat honest && echo t > $TMPDIR/t && cat $TMPDIR/t"])
    assert (result.output, result.exit_code) == ("in\nt\n", 0)
    assert box.read("honest") == b"in\n"


LINKS = {
    "to a file": "ln -s {0} metrics.jsonl",
    "in place of a folder": "rm -rf out; ln -s {1} out; ln -s {0} metrics.jsonl",
    "a chain": "ln -s {0} b; ln -s b metrics.jsonl",
    "by the parent": "ln -s ../../../../../..{0} metrics.jsonl",
    "to a descriptor": "ln -s /proc/self/fd/1 metrics.jsonl; ln -s /proc/self/cwd out",
}


@pytest.mark.parametrize("how", LINKS)
def test_a_link_where_the_host_writes_leads_nowhere(box: Sandbox, canary: Path, workspace: Path, how: str) -> None:
    assert box.exec(["sh", "-c", LINKS[how].format(canary, canary.parent)]).exit_code == 0
    before = sorted(canary.parent.iterdir())
    for path in ("metrics.jsonl", "out/metrics.jsonl", "out/deeper/f"):
        at_once(lambda path=path: box.write(path, b"written by the host"))
        found = at_once(lambda path=path: box.read(path))
        assert found == b"written by the host" or isinstance(found, OSError)
    kept = box.snapshot()
    box.restore(kept)
    assert canary.read_text() == "untouched"
    assert sorted(canary.parent.iterdir()) == before
    still_works(box)


def test_a_bind_below_the_workspace_cannot_be_moved_by_a_link(
    open_box: OpenBox, workspace: Path, canary: Path, tmp_path: Path
) -> None:
    (workspace / "out").symlink_to(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises((OSError, RuntimeError)):
        open_box(binds=(Bind(outside, "/workspace/out/deep", writable=True),))
    assert sorted(tmp_path.iterdir()) == before


MAKES = {
    "pipe": "import os; os.mkfifo('f')",
    "socket": "import socket; socket.socket(socket.AF_UNIX).bind('f')",
    "link to a pipe": "import os; os.mkfifo('p'); os.symlink('p', 'f')",
    "link to itself": "import os; os.symlink('f', 'f')",
    "endless device": "import os; os.symlink('/dev/zero', 'f')",
}


@pytest.mark.parametrize("what", MAKES)
def test_what_is_no_file_does_not_hold_the_host(box: Sandbox, what: str) -> None:
    assert box.exec([box.info.python, "-c", MAKES[what]]).exit_code == 0
    assert isinstance(at_once(lambda: box.read("f")), OSError)
    kept = at_once(box.snapshot)
    at_once(lambda: box.write("f", b"x"))
    assert isinstance(kept, str)
    at_once(lambda: box.restore(kept))
    still_works(box)


def test_a_file_that_grows_while_the_host_reads_ends(box: Sandbox, tmp_path: Path) -> None:
    grow = (
        "import time\nwith open('f', 'wb', buffering=0) as f:\n while True: f.write(bytes(1 << 16)); time.sleep(1e-4)"
    )
    process = box.spawn([box.info.python, "-c", grow], timeout_s=20, stderr_path=tmp_path / "e")
    appears(box, "f")
    for _ in range(20):
        found = at_once(lambda: box.read("f", max_bytes=1 << 20))
        assert isinstance(found, OSError) or len(found) <= 1 << 20
    process.kill()
    still_works(box)


def appears(box: Sandbox, path: str) -> None:
    """Wait until the file is there."""
    stop = time.monotonic() + 10
    while isinstance(at_once(lambda: box.read(path)), FileNotFoundError):
        assert time.monotonic() < stop
        time.sleep(0.01)


SWAP = """
import os, sys
while True:
    for make in (lambda: os.symlink(sys.argv[1], "new"), lambda: os.symlink(sys.argv[2], "new"),
                 lambda: os.mkfifo("new"), lambda: os.mkdir("new"), lambda: open("new", "w").close()):
        try:
            make()
            os.rename("new", sys.argv[3])
        except OSError:
            for remove in (os.rmdir, os.unlink):
                for name in ("new", sys.argv[3], sys.argv[3] + "/f"):
                    try:
                        remove(name)
                    except OSError:
                        pass
    open("ready", "w").close()
"""


@pytest.mark.parametrize("target", ["f", "out"])
def test_a_path_that_changes_while_the_host_uses_it_leads_nowhere(
    box: Sandbox, canary: Path, tmp_path: Path, target: str
) -> None:
    argv = [box.info.python, "-c", SWAP, str(canary), str(canary.parent), target]
    process = box.spawn(argv, timeout_s=30, stderr_path=tmp_path / "e")
    appears(box, "ready")
    path = {"f": "f", "out": "out/f"}[target]
    before = sorted(path.name for path in canary.parent.iterdir())
    for _ in range(150):
        at_once(lambda: box.write(path, b"written by the host"))
        found = at_once(lambda: box.read(path))
        assert isinstance(found, OSError) or b"untouched" not in found
    assert process.poll() is None
    process.kill()
    assert canary.read_text() == "untouched"
    assert sorted(path.name for path in canary.parent.iterdir()) == before
    still_works(box)


RIGHTS = {
    "the workspace": "mkdir d; echo x > d/f; chmod 000 d/f d .",
    "the workspace unwritable": "chmod 500 .",
    "the workspace with odd bits": "chmod 7000 .",
    "the temporary folder": "chmod 000 $TMPDIR; true",
}


@pytest.mark.parametrize("what", RIGHTS)
def test_rights_that_a_command_takes_away_do_not_lock_out_the_next_one(
    box: Sandbox, workspace: Path, what: str
) -> None:
    assert box.exec(["sh", "-c", RIGHTS[what]]).exit_code == 0
    still_works(box)
    kept = box.snapshot()
    assert box.exec(["sh", "-c", "chmod -R 000 ."]).exit_code in (0, 1)
    box.restore(kept)
    assert box.snapshot() == kept
    still_works(box)
    assert stat.S_IMODE(workspace.stat().st_mode) & 0o700 == 0o700


TIMES = """
import os
known = os.stat("train.py")
with open("train.py", "r+") as file:
    file.write("b")
os.utime("train.py", ns=(known.st_atime_ns, known.st_mtime_ns))
os.utime(".", ns=(0, 0))
open("future", "w").close()
os.utime("future", (2**33, 2**33))
open("past", "w").close()
os.utime("past", (-2**31, -2**31))
"""


def test_a_change_under_old_times_is_in_the_snapshot(box: Sandbox) -> None:
    box.write("train.py", b"a = 1\n")
    before = box.snapshot()
    assert box.exec([box.info.python, "-c", TIMES]).exit_code == 0
    after = box.snapshot()
    assert after != before
    box.restore(before)
    assert box.read("train.py") == b"a = 1\n"
    box.restore(after)
    assert box.read("train.py") == b"b = 1\n"
    still_works(box)


def test_names_that_break_lines_and_terminals_are_kept_as_they_are(box: Sandbox) -> None:
    names = """(b'a\\nb', b'\\x1b[2J', b'\\xff\\xfe', b'-rf', b'$(id)', b'"q"')"""
    code = f"for name in {names}: open(name, 'w').close()"
    assert box.exec([box.info.python, "-c", code]).exit_code == 0
    kept = box.snapshot()
    assert box.exec(["sh", "-c", "rm -f -- *"]).exit_code == 0
    box.restore(kept)
    shown = box.exec([box.info.python, "-c", "import os; print(sorted(os.listdir(b'.')))"]).output
    assert shown == "[b'\\x1b[2J', b'\"q\"', b'$(id)', b'-rf', b'a\\nb', b'\\xff\\xfe']\n"
    still_works(box)


def test_a_setuid_file_loses_its_bit_on_the_way_through_the_host(box: Sandbox, workspace: Path, tmp_path: Path) -> None:
    assert box.exec(["sh", "-c", "cp /bin/sh shell && chmod 6755 shell"]).exit_code == 0
    kept = box.snapshot()
    (workspace / "shell").unlink()
    box.restore(kept)
    assert stat.S_IMODE((workspace / "shell").stat().st_mode) == 0o755
    assert (workspace / "shell").stat().st_uid != 0 or os.geteuid() != 0
