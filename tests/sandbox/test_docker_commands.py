"""Commands in a container that do all they can not to be ended, or not to be followed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from backends import BACKENDS
from scan import OpenBox, alive, gone_within, holds_within, slept_within

from xar_agent.errors import SandboxError
from xar_agent.sandbox import Limits, Sandbox

pytestmark = [pytest.mark.docker, pytest.mark.parametrize("backend", BACKENDS[2:], indirect=True)]


@pytest.fixture(params=["alone", "beside another command"])
def shared(request: pytest.FixtureRequest, box: Sandbox, tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox where another command runs or none does; the other one must live on."""
    with ExitStack() as stack:
        other = None
        if request.param != "alone":
            other = box.spawn(["sleep", "600"], stderr_path=tmp_path / "other")
            stack.callback(other.kill)
        yield box
        assert other is None or other.poll() is None


def shells_of(command: str) -> list[int]:
    """First shells of commands, which have the command's words on their own line."""
    return [pid for pid in alive(command) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sh\0-c\0")]


def test_a_command_that_stops_its_first_shell_is_ended_in_time(shared: Sandbox, marker: str) -> None:
    begun = time.monotonic()
    result = shared.exec(["sh", "-c", f"kill -STOP $PPID; exit 0; {marker}"], timeout_s=1)
    assert (result.stopped_by, result.exit_code) == ("wall", 137)
    assert time.monotonic() - begun < 4
    assert shells_of(marker) == []


BOMB = "f() {{ {marker} 2>&- & f & f & }}; f; wait"


def test_a_fork_bomb_is_ended_in_time_beside_another_command(open_box: OpenBox, marker: str, tmp_path: Path) -> None:
    box = open_box(limits=Limits(processes=64))
    other = box.spawn(["sleep", "600"], stderr_path=tmp_path / "other")
    result = box.exec(["sh", "-c", BOMB.format(marker=f"sleep {marker}")], timeout_s=1)
    assert result.duration_s < 2
    assert alive(marker) == []
    assert other.poll() is None
    other.kill()


def test_a_command_that_is_ended_before_it_runs_does_not_run_later(box: Sandbox, marker: str, tmp_path: Path) -> None:
    for _ in range(5):
        box.spawn(["sleep", marker], stderr_path=tmp_path / "e").kill()
    assert not slept_within(marker, 1, 1)
    assert alive(marker) == []


def test_a_command_whose_log_cannot_be_written_is_not_started(box: Sandbox, marker: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        box.exec(["sleep", marker], log_path=tmp_path / "none" / "log")
    assert not slept_within(marker, 1, 1)


@pytest.mark.parametrize("n_bytes", [1_400_000, 100])
def test_a_slow_reader_gets_all_that_was_written(box: Sandbox, tmp_path: Path, n_bytes: int) -> None:
    process = box.spawn(["head", "-c", str(n_bytes), "/dev/zero"], stderr_path=tmp_path / "e")
    assert process.wait(60).exit_code == 0
    assert len(process.stdout.read()) == n_bytes


def test_output_that_nobody_reads_keeps_no_thread(open_box: OpenBox, tmp_path: Path) -> None:
    box = open_box()
    before = threading.active_count()
    process = box.spawn(["head", "-c", "1400000", "/dev/zero"], stderr_path=tmp_path / "e")
    assert process.wait(60).exit_code == 0
    box.close()
    assert holds_within(lambda: threading.active_count() <= before, 5)


def test_a_burst_at_the_end_is_never_cut(box: Sandbox) -> None:
    for _ in range(20):
        assert box.exec(["head", "-c", "5000000", "/dev/zero"]).n_bytes == 5_000_000
        assert box.exec(["echo", "last words"]).output == "last words\n"


def test_an_argument_that_is_no_text_is_refused_not_changed(box: Sandbox) -> None:
    result = box.exec(["printf", "%s", "a\udcff"])
    assert (result.exit_code, "not UTF-8" in result.output) == (126, True)
    assert box.exec(["true"], env={"A": "\udcff"}).exit_code == 126
    assert box.exec(["true"], cwd="\udcff").exit_code == 126


def test_more_cpus_than_there_are_is_no_bound(open_box: OpenBox) -> None:
    assert open_box(limits=Limits(cpus=4096.0)).exec(["true"]).exit_code == 0


def test_nobody_in_a_container_has_any_right_and_commands_cannot_end_the_keeper(box: Sandbox) -> None:
    shown = box.exec(["sh", "-c", "grep -h ^Cap /proc/[0-9]*/status"]).output.splitlines()
    assert len(shown) >= 3 * 5
    assert {line.split()[1] for line in shown} == {"0" * 16}
    assert box.exec(["sh", "-c", "kill -9 1; kill -9 $(pgrep -u 0 || echo 7)"]).exit_code != 0


def test_commands_of_many_threads_have_their_own_output(box: Sandbox, tmp_path: Path) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(5):
            word = f"{number}-{turn}"
            try:
                if turn % 2:
                    said: object = box.exec(["echo", word]).output
                else:
                    process = box.spawn(["echo", word], stderr_path=tmp_path / f"e{number}")
                    said = process.stdout.read().decode()
                    process.wait()
            except SandboxError as error:
                said = error.message
            if said != word + "\n":
                wrong.append((word, said))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_many_commands_leave_no_descriptor_and_no_thread(box: Sandbox, tmp_path: Path) -> None:
    counts = []
    for _ in range(3):
        for _ in range(15):
            box.exec(["true"], stdin=b"x" * 300_000)
            process = box.spawn(["cat"], stderr_path=tmp_path / "e")
            process.stdin.close()
            process.wait()
            process.stdout.close()
        assert holds_within(lambda: "docker-command" not in [thread.name for thread in threading.enumerate()], 2)
        counts.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
    assert counts[2] <= counts[1] + 2  # some connections to the engine are kept for the next call


def test_a_command_that_waits_for_input_ends_when_it_is_killed(box: Sandbox, marker: str, tmp_path: Path) -> None:
    process = box.spawn(["sh", "-c", f"head -c 100000000 /dev/zero; cat; sleep {marker}"], stderr_path=tmp_path / "e")
    process.kill()
    assert gone_within(marker, 1)


def test_a_workspace_may_be_a_link_with_odd_characters(
    open_box: OpenBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "a b:c,d é", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for workspace in (folder, link, Path("link")):
        box = open_box(workspace=workspace)
        assert box.exec(["sh", "-c", "echo here > f; cat f"]).output == "here\n"
        box.write("g", b"too")
        assert {path.name for path in folder.iterdir()} == {"f", "g"}


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's commands run as that user")
def test_a_workspace_that_the_inner_user_cannot_read_is_said_at_the_start(open_box: OpenBox, workspace: Path) -> None:
    workspace.chmod(0o700)
    with pytest.raises(SandboxError, match="cannot be read"):
        open_box(workspace_writable=False)
