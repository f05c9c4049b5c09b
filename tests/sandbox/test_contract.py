"""What every back end does alike: commands, streams, files, snapshots."""

from __future__ import annotations

import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scan import OpenBox

from xar_agent.errors import CapabilityMissing, ConfigError, SandboxLost, SandboxStartError
from xar_agent.sandbox import WORKSPACE, Bind, Sandbox, SandboxSpec, open_sandbox, probe


def test_output_comes_back_in_order_from_both_streams(box: Sandbox) -> None:
    result = box.exec(["sh", "-c", "echo one; echo two >&2; echo three"])
    assert (result.exit_code, result.output, result.n_bytes) == (0, "one\ntwo\nthree\n", 14)


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_codes_are_values(box: Sandbox, code: int) -> None:
    assert box.exec(["sh", "-c", f"exit {code}"]).exit_code == code


def test_a_signal_shows_as_in_a_shell(box: Sandbox) -> None:
    assert box.exec(["sh", "-c", "kill -SEGV $$"]).exit_code == 139


def test_a_missing_command_is_a_value(box: Sandbox) -> None:
    result = box.exec(["no-such-command"])
    assert result.exit_code == 127
    assert "no-such-command" in result.output


def test_no_shell_reads_the_arguments(box: Sandbox) -> None:
    words = ["$HOME", "a b", "", "*", "';", "ü", "-n", "\\n"]
    shown = box.exec([box.info.python, "-c", "import sys; print(sys.argv[1:])", *words]).output
    assert shown.strip() == str(words)


def test_no_shell_builtin_takes_the_place_of_a_program(box: Sandbox) -> None:
    assert box.exec(["echo", "-e", r"a\tb"]).output == "a\tb\n"


def test_an_empty_command_is_refused(box: Sandbox) -> None:
    with pytest.raises(ValueError, match="at least one word"):
        box.exec([])


def test_standard_input_arrives_as_bytes_and_ends(box: Sandbox) -> None:
    sent = bytes(range(256)) * 4000
    result = box.exec([box.info.python, "-c", "import sys; print(len(sys.stdin.buffer.read()))"], stdin=sent)
    assert result.output == "1024000\n"
    assert box.exec(["cat"]).output == ""


def test_the_streams_can_be_opened_by_name(box: Sandbox, tmp_path: Path) -> None:
    result = box.exec(["sh", "-c", "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr"], stdin=b"in\n")
    assert result.output == "in\nerr\n"
    process = box.spawn(["sh", "-c", "cat /dev/stdin > /dev/stdout"], stderr_path=tmp_path / "e")
    process.stdin.write(b"in\n")
    process.stdin.close()
    assert (process.stdout.read(), process.wait(10).output) == (b"in\n", "")


def test_unicode_goes_both_ways(box: Sandbox) -> None:
    assert box.exec(["cat"], stdin="naïve 漢字 🧪".encode()).output == "naïve 漢字 🧪"


def test_bytes_that_are_no_text_are_replaced(box: Sandbox) -> None:
    assert box.exec(["printf", r"a\377b"]).output == "a\ufffdb"


def test_long_output_keeps_head_and_tail_and_says_what_is_missing(box: Sandbox) -> None:
    result = box.exec(["seq", "100000"], max_bytes=1000)
    assert result.head.startswith("1\n2\n")
    assert result.tail.endswith("99999\n100000\n")
    assert (result.n_bytes, len(result.head), len(result.tail)) == (588_895, 500, 500)
    assert "587895 bytes left out" in result.output


def test_a_character_is_not_cut_in_half(box: Sandbox) -> None:
    result = box.exec([box.info.python, "-c", "print('漢' * 5000, end='')"], max_bytes=1000)
    assert set(result.head + result.tail) == {"漢"}


def test_the_log_has_what_the_result_leaves_out(box: Sandbox, tmp_path: Path) -> None:
    box.exec(["seq", "100000"], max_bytes=100, log_path=tmp_path / "log")
    assert (tmp_path / "log").read_text().count("\n") == 100_000


def test_a_command_runs_in_the_workspace_or_below(box: Sandbox) -> None:
    box.write("deep/er/x", b"")
    assert box.exec(["pwd"]).output.strip() == box.path_of(WORKSPACE)
    assert box.exec(["ls"], cwd="deep/er").output == "x\n"


def test_a_missing_working_folder_is_a_value(box: Sandbox) -> None:
    result = box.exec(["true"], cwd="nowhere")
    assert result.exit_code == 126
    assert "nowhere" in result.output


def test_the_environment_is_the_spec_and_nothing_else(open_box: OpenBox, planted_key: str) -> None:
    shown = open_box(environment={"GIVEN": "1"}).exec(["env", "-0"], env={"ADDED": "a\nb"}).output
    names = dict(line.split("=", 1) for line in shown.split("\0") if line)
    assert set(names) - {"PWD", "SHLVL", "_"} == {"PATH", "HOME", "LANG", "TMPDIR", "GIVEN", "ADDED"}
    assert names["ADDED"] == "a\nb"
    assert planted_key not in shown


def test_the_python_that_the_info_names_works_inside(box: Sandbox) -> None:
    result = box.exec([box.info.python, "-c", "import sys, json; print(sys.prefix)"])
    assert result.exit_code == 0
    assert box.exec(["python3", "-c", "import sys; print(sys.prefix)"]).output == result.output
    if not box.info.image:
        assert result.output.strip() == sys.prefix


def test_home_and_temporary_files_are_kept_between_commands(box: Sandbox) -> None:
    box.exec(["sh", "-c", 'echo kept > "$TMPDIR/f"; test "$HOME" = "$TMPDIR"'])
    assert box.exec(["sh", "-c", 'cat "$HOME/f"']).output == "kept\n"
    assert box.exec(["cat", box.path_of("/tmp/f")]).output == "kept\n"


@pytest.mark.parametrize("content", [b"", b"text\n", bytes(range(256)), b"x" * 3_000_000])
def test_files_go_both_ways_as_they_are(box: Sandbox, content: bytes) -> None:
    box.write("folder/däta.bin", content)
    assert box.exec(["sha256sum", "folder/däta.bin"]).exit_code == 0
    assert box.exec(["cp", "folder/däta.bin", "copy"]).exit_code == 0
    assert box.read("copy") == content


def test_a_command_can_change_what_the_host_wrote(box: Sandbox) -> None:
    box.write("sub/f.txt", b"one\n")
    assert box.exec(["sh", "-c", "echo two >> sub/f.txt; mv sub/f.txt sub/g.txt; rm -r sub/g.txt"]).output == ""


def test_writing_keeps_the_mode(box: Sandbox) -> None:
    box.exec(["sh", "-c", "echo old > run; chmod 755 run"])
    box.write("run", b"#!/bin/sh\necho new\n")
    assert box.exec(["./run"]).output == "new\n"


def test_a_missing_file_is_a_file_not_found(box: Sandbox) -> None:
    with pytest.raises(FileNotFoundError):
        box.read("nothing/here")


def test_reading_a_folder_says_so(box: Sandbox) -> None:
    box.write("folder/f", b"")
    with pytest.raises(IsADirectoryError):
        box.read("folder")
    with pytest.raises(IsADirectoryError):
        box.write("folder", b"x")


def test_a_file_beyond_the_cap_is_an_error_not_half_a_file(box: Sandbox) -> None:
    box.write("big", b"x" * 1001)
    with pytest.raises(OSError, match="more than 1000 bytes"):
        box.read("big", max_bytes=1000)


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd", "out/link", "link"])
def test_paths_do_not_lead_out(box: Sandbox, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").write_text("host")
    box.exec(["sh", "-c", f"mkdir -p a out; ln -s {tmp_path}/outside link; ln -s ../../outside out/link"])
    with pytest.raises(PermissionError):
        box.read(path)
    with pytest.raises(PermissionError):
        box.write(path, b"pwned")
    assert (tmp_path / "outside").read_text() == "host"


def test_links_inside_the_workspace_work(box: Sandbox) -> None:
    box.write("real/f", b"1")
    box.exec(["sh", "-c", "ln -s real near; ln -s f real/g"])
    box.exec(["ln", "-s", box.path_of("/workspace/real"), "far"])
    assert [box.read(path) for path in ("near/f", "real/g", "far/g", "/workspace/real/f")] == [b"1"] * 4
    box.write("near/g", b"2")
    assert box.read("real/f") == b"2"


def test_a_pipe_where_the_host_reads_does_not_hang(box: Sandbox) -> None:
    box.exec(["mkfifo", "pipe"])
    with pytest.raises(PermissionError):
        box.read("pipe")


def test_a_bound_file_and_folder_are_there(open_box: OpenBox, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data").write_text("seen")
    (tmp_path / "out").mkdir()
    box = open_box(binds=(Bind(tmp_path / "in", "/xar/in"), Bind(tmp_path / "out", "/xar/out", writable=True)))
    assert box.exec(["cat", box.path_of("/xar/in/data")]).output == "seen"
    assert box.exec(["sh", "-c", f"echo back > {box.path_of('/xar/out')}/f"]).exit_code == 0
    assert (tmp_path / "out" / "f").read_text() == "back\n"


def test_a_bound_socket_is_connectable(open_box: OpenBox, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        box = open_box(binds=(Bind(tmp_path / "s", "/xar/data.sock"),))

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"hello")

        threading.Thread(target=serve, daemon=True).start()
        code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9))"
        assert box.exec([box.info.python, "-c", code, box.path_of("/xar/data.sock")]).output == "b'hello'\n"


def test_spawned_commands_talk_over_pipes(box: Sandbox, tmp_path: Path) -> None:
    process = box.spawn(
        ["sh", "-c", "echo noise >&2; while read line; do echo got $line; done"], stderr_path=tmp_path / "e"
    )
    for word in (b"one\n", b"two\n"):
        process.stdin.write(word)
        process.stdin.flush()
        assert process.stdout.readline() == b"got " + word
    assert process.poll() is None
    process.stdin.close()
    result = process.wait(10)
    assert (result.exit_code, process.poll(), (tmp_path / "e").read_text()) == (0, 0, "noise\n")


def test_a_spawned_command_runs_while_others_are_executed(box: Sandbox, tmp_path: Path) -> None:
    process = box.spawn(["cat"], stderr_path=tmp_path / "e")
    assert box.exec(["true"]).exit_code == 0
    process.stdin.write(b"still there\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"still there\n"
    process.kill()
    process.kill()
    assert process.wait().stopped_by == "cancel"


def test_snapshots_come_back_whole(box: Sandbox) -> None:
    box.exec(["sh", "-c", "mkdir -p a/b out; echo 1 > a/b/f; echo 2 > g; chmod +x g; ln -s g l; echo kept > out/o"])
    before = box.snapshot()
    box.exec(["sh", "-c", "rm -r a l; mkdir l g2 ; echo x > l/x; rm g; ln -s /etc g; touch a; mkfifo p"])
    assert box.snapshot() != before
    box.restore(before)
    assert box.snapshot() == before
    shown = box.exec(["sh", "-c", "cat a/b/f g out/o; test -x g; readlink l; ls"]).output
    assert shown == "1\n2\nkept\ng\na\ng\nl\nout\n"
    assert box.exec(["sh", "-c", "echo more >> a/b/f && rm -r a g l"]).output == ""


def test_closing_twice_is_fine_and_use_afterwards_is_an_error(box: Sandbox, workspace: Path) -> None:
    box.write("f", b"stays")
    box.close()
    box.close()
    assert (workspace / "f").read_bytes() == b"stays"
    for use in (lambda: box.exec(["true"]), lambda: box.read("f"), box.snapshot):
        with pytest.raises(SandboxLost, match="closed"):
            use()


def test_a_sandbox_that_was_not_started_says_so(backend: str, workspace: Path) -> None:
    with pytest.raises(SandboxLost, match="not started"):
        open_sandbox(backend, SandboxSpec(workspace=workspace)).exec(["true"])


def test_a_missing_workspace_or_bind_is_a_start_error(backend: str, workspace: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(SandboxStartError, match="no workspace"):
        open_sandbox(backend, SandboxSpec(workspace=nowhere)).start()
    with pytest.raises(SandboxStartError, match="does not exist"):
        open_sandbox(backend, SandboxSpec(workspace=workspace, binds=(Bind(nowhere, "/x"),))).start()


def test_a_gpu_that_is_not_there_is_refused_with_a_word_about_it(backend: str, workspace: Path) -> None:
    with pytest.raises((CapabilityMissing, SandboxStartError), match="(?i)gpu|device") as refused:
        open_sandbox(backend, SandboxSpec(workspace=workspace, gpus=("GPU-1",))).start()
    assert refused.value.hint


def test_nothing_is_left_on_the_host_but_the_workspace(
    open_box: OpenBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    box = open_box()
    box.exec(["sh", "-c", 'mkdir -p "$TMPDIR/x/y"; chmod 000 "$TMPDIR/x"'])
    box.snapshot()
    box.close()
    assert list((tmp_path / "t").iterdir()) == []


def test_what_a_killed_driver_left_behind_is_removed_later(
    open_box: OpenBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("xar-sandbox-dead", "xar-sandbox-young"):
        (tmp_path / name / "tmp").mkdir(parents=True)
        (tmp_path / name / "lock").touch()
    os.utime(tmp_path / "xar-sandbox-dead", (0, 0))
    first = open_box()
    mine = {path.name for path in tmp_path.glob("xar-sandbox-*")}
    assert len(mine) == 2
    assert "xar-sandbox-dead" not in mine
    for path in tmp_path.glob("xar-sandbox-*"):
        os.utime(path, (0, 0))
    open_box()
    assert first.exec(["true"]).exit_code == 0
    assert len(list(tmp_path.glob("xar-sandbox-*"))) == 2


def test_commands_leave_no_descriptor_open(open_box: OpenBox, tmp_path: Path) -> None:
    box = open_box()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(3):
        box.exec(["true"])
        box.write(f"a/b{n}", b"x")
        box.read(f"a/b{n}")
        box.snapshot()
        box.spawn(["cat"], stderr_path=tmp_path / "e")
    box.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < before


def test_many_sandboxes_run_side_by_side(open_box: OpenBox, tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(4)]
    for folder in folders:
        folder.mkdir()
    boxes = [open_box(workspace=folder) for folder in folders]
    with ThreadPoolExecutor(8) as pool:
        shown = list(pool.map(lambda n: boxes[n % 4].exec(["echo", str(n)]).output, range(12)))
    assert shown == [f"{n}\n" for n in range(12)]


def test_the_probe_says_what_holds(backend: str) -> None:
    info = probe(backend)
    assert info.backend == backend
    assert info.capabilities.secrets_hidden is (backend != "process")
    assert info.capabilities.network_off is (backend != "process")
    assert info.detail


def test_unknown_names_are_refused(workspace: Path) -> None:
    with pytest.raises(ConfigError, match="unknown sandbox 'chroot'"):
        open_sandbox("chroot", SandboxSpec(workspace=workspace))
