"""Records on disk survive torn writes, full disks and crashes."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xar_agent.errors import StoreError
from xar_agent.store import append_line, open_database, read_lines, to_json, write_atomic, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def run_with_small_files(code: str, folder: Path, max_bytes: int) -> subprocess.CompletedProcess[str]:
    """Run Python code that cannot write files beyond a size: what a full disk looks like to a program."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    ignore = "import signal, sys; from pathlib import Path; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    command = [sys.executable, "-c", ignore + code, str(folder)]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file.json"]


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    code = (
        "from xar_agent.store import write_atomic; from xar_agent.errors import StoreError\n"
        "try: write_atomic(Path(sys.argv[1]) / 'file', 'x' * 100_000)\n"
        "except StoreError as error: print(error.message, '|', error.hint)"
    )
    done = run_with_small_files(code, tmp_path, 50_000)
    assert done.returncode == 0, done.stderr
    message, _, hint = done.stdout.partition("|")
    assert "cannot write" in message
    assert hint.strip()
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_line_that_does_not_fit_leaves_the_lines_before_it(tmp_path: Path) -> None:
    code = (
        "from xar_agent.store import append_line, read_lines; from xar_agent.errors import StoreError\n"
        "path = Path(sys.argv[1]) / 'lines'\n"
        "append_line(path, 'a' * 900)\n"
        "try: append_line(path, 'b' * 900)\n"
        "except StoreError: print('refused')"
    )
    done = run_with_small_files(code, tmp_path, 1000)
    assert done.stdout == "refused\n", done.stderr
    assert read_lines(tmp_path / "lines") == ["a" * 900]


def test_a_database_that_is_full_says_so_and_keeps_what_it_had(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "x.db", ["CREATE TABLE t (x TEXT)"])
    connection.execute("INSERT INTO t VALUES ('kept')")
    connection.close()
    code = (
        "from xar_agent.store import open_database, store_errors; from xar_agent.errors import StoreError\n"
        "path = Path(sys.argv[1]) / 'x.db'\n"
        "try:\n"
        "    db = open_database(path, ['CREATE TABLE t (x TEXT)'])\n"
        "    with store_errors(path, 'write'): db.execute('INSERT INTO t VALUES (?)', ('y' * 400_000,))\n"
        "except StoreError as error: print('StoreError')"
    )
    done = run_with_small_files(code, tmp_path, 100_000)
    assert done.stdout == "StoreError\n", done.stderr
    reader = open_database(tmp_path / "x.db", ["CREATE TABLE t (x TEXT)"], read_only=True)
    assert [row["x"] for row in reader.execute("SELECT x FROM t")] == ["kept"]
    reader.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_on_a_really_full_disk_the_hint_says_full(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this root may not mount")
    try:
        append_line(tmp_path / "lines", 1)
        with pytest.raises(StoreError) as caught:
            write_atomic(tmp_path / "file", "x" * 200_000)
        assert "disk is full" in caught.value.hint
        with pytest.raises(StoreError):
            append_line(tmp_path / "lines", "x" * 200_000)
        assert read_lines(tmp_path / "lines") == [1]
        assert names(tmp_path) == ["lines"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(values=st.lists(JSON, max_size=5), torn=st.binary(max_size=40).filter(lambda b: b"\n" not in b))
def test_lines_come_back_as_they_were_whatever_a_crash_left_behind(
    tmp_path: Path, values: list[object], torn: bytes
) -> None:
    path = tmp_path / "lines.jsonl"
    path.unlink(missing_ok=True)
    path.touch()
    for value in values:
        append_line(path, value)
    with path.open("ab") as file:
        file.write(torn)
    assert read_lines(path) == values
    append_line(path, "after")
    assert read_lines(path) == [*values, "after"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text('1\n{"broken\n3\n')
    with pytest.raises(StoreError, match=r"lines:2 is not JSON"):
        read_lines(path)


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"

    def append(i: int) -> None:
        for _ in range(30):
            append_line(path, [i] * 300)

    threads = [threading.Thread(target=append, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = read_lines(path)
    assert len(lines) == 120
    assert all(len(set(line)) == 1 and len(line) == 300 for line in lines)


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not names(tmp_path)
    assert to_json({"ä": [1, None]}) == '{"ä": [1, null]}'


def test_migrations_run_once_each_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    first = ["CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('one')"]
    open_database(path, first).close()
    db = open_database(path, [*first, "ALTER TABLE t ADD COLUMN b TEXT DEFAULT 'two'"])
    assert [tuple(row) for row in db.execute("SELECT a, b FROM t")] == [("one", "two")]
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    db.close()
    with pytest.raises(StoreError, match="newer release"):
        open_database(path, first)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with pytest.raises(StoreError):
        open_database(path, ["CREATE TABLE t (a TEXT); INSERT INTO nowhere VALUES (1)"])
    db = open_database(path, ["CREATE TABLE t (a TEXT)"])
    assert db.execute("SELECT count(*) FROM t").fetchone()[0] == 0
    db.close()


def test_a_reader_sees_commits_while_the_writer_is_open_and_cannot_write(tmp_path: Path) -> None:
    schema = ["CREATE TABLE t (a TEXT)"]
    writer = open_database(tmp_path / "x.db", schema)
    reader = open_database(tmp_path / "x.db", schema, read_only=True)
    writer.execute("INSERT INTO t VALUES ('seen')")
    assert reader.execute("SELECT a FROM t").fetchone()[0] == "seen"
    with pytest.raises(sqlite3.OperationalError):
        reader.execute("INSERT INTO t VALUES ('no')")
    reader.close()
    writer.close()


def test_a_file_that_is_no_database_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"hello" * 1000)
    with pytest.raises(StoreError, match=r"x\.db"):
        open_database(tmp_path / "x.db", ["CREATE TABLE t (a TEXT)"])


def test_half_a_character_never_reaches_a_file(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"a\ud800": ["\udfff"]})
    append_line(tmp_path / "lines.jsonl", "\ud800")
    write_atomic(tmp_path / "text", "x\ud800")
    assert json.loads((tmp_path / "one.json").read_text()) == {"a?": ["?"]}
    assert read_lines(tmp_path / "lines.jsonl") == ["?"]
    assert (tmp_path / "text").read_text() == "x?"
