"""A data set is prepared once, checked each time, and never half there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import DataUnavailable
from xar_agent.jobs.data import PrepareProgress, prepare_data


def test_it_is_prepared_once_with_progress_and_then_found(toy_copy: Path, cache_dir: Path) -> None:
    heard: list[PrepareProgress] = []
    first = prepare_data(EnvSpec(toy_copy), on_progress=heard.append)
    assert heard
    assert all(0 <= p.done <= p.total for p in heard)
    assert first.folder.is_relative_to(cache_dir)
    assert len(first.train_tokens()) == json.loads((first.split("train") / "meta.json").read_text())["tokens"]
    again = prepare_data(EnvSpec(toy_copy), on_progress=lambda _: pytest.fail("prepared again"))
    assert again == first
    assert first.split("smoke") == first.split("train")


def test_a_flipped_byte_is_noticed_and_mended(toy_copy: Path) -> None:
    first = prepare_data(EnvSpec(toy_copy))
    path = first.split("val") / "val.bin"
    good = path.read_bytes()
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    assert prepare_data(EnvSpec(toy_copy)).sha256 == first.sha256
    assert path.read_bytes() == good


def test_another_version_of_the_program_has_a_folder_of_its_own(toy_copy: Path) -> None:
    first = prepare_data(EnvSpec(toy_copy))
    program = toy_copy / "prepare.py"
    program.write_text(program.read_text() + "\n# changed\n")
    assert prepare_data(EnvSpec(toy_copy)).folder != first.folder


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; print('no network: try --source', file=sys.stderr); sys.exit(1)", "no network: try --source"),
        ("print('done')", "incomplete data set"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_a_failing_preparation_says_why(toy_copy: Path, program: str, reason: str) -> None:
    (toy_copy / "prepare.py").write_text(program)
    with pytest.raises(DataUnavailable, match=reason) as caught:
        prepare_data(EnvSpec(toy_copy))
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_the_program_does_not_see_keys(toy_copy: Path, planted_key: str, tmp_path: Path) -> None:
    (toy_copy / "prepare.py").write_text(
        f"import os\nopen({str(tmp_path / 'seen')!r}, 'w').write(os.environ.get('PLANTED_API_KEY', ''))"
    )
    with pytest.raises(DataUnavailable):
        prepare_data(EnvSpec(toy_copy))
    assert planted_key not in (tmp_path / "seen").read_text()


def test_the_source_is_handed_on(toy_copy: Path, tmp_path: Path) -> None:
    (toy_copy / "prepare.py").write_text("import sys; sys.exit(' '.join(sys.argv[2:]))")
    with pytest.raises(DataUnavailable, match="--source /some/file"):
        prepare_data(EnvSpec(toy_copy), source=Path("/some/file"))


STUBBORN = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", sys.argv[1]])
print('{"stage": "begun", "done": 0, "total": 1}', flush=True)
time.sleep(60)
"""
DRIVER = """
import sys
from pathlib import Path
from xar_agent.envs.spec import EnvSpec
from xar_agent.jobs.data import prepare_data
prepare_data(EnvSpec(Path(sys.argv[1])), on_progress=lambda _: print("begun", flush=True))
"""


def left_over(cache_dir: Path) -> list[int]:
    """Processes of a preparation into this cache."""
    found = psutil.process_iter(["cmdline"])
    return [p.pid for p in found if any(str(cache_dir) in word for word in p.info["cmdline"] or [])]


def wait_until_gone(cache_dir: Path) -> None:
    """Fail when one is still there after some seconds."""
    deadline = time.monotonic() + 5
    while (left := left_over(cache_dir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_of_a_preparation_outlives_its_driver(toy_copy: Path, cache_dir: Path, ending: signal.Signals) -> None:
    (toy_copy / "prepare.py").write_text(STUBBORN)
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(toy_copy)], stdout=subprocess.PIPE) as driver:
        assert driver.stdout
        assert driver.stdout.readline() == b"begun\n"
        assert len(left_over(cache_dir)) >= 2
        driver.send_signal(ending)
    wait_until_gone(cache_dir)


def test_nothing_of_a_preparation_outlives_an_exception_or_its_own_end(toy_copy: Path, cache_dir: Path) -> None:
    (toy_copy / "prepare.py").write_text(STUBBORN)

    def fail(progress: PrepareProgress) -> None:
        raise BrokenPipeError(progress.stage)

    begun = time.monotonic()
    with pytest.raises(BrokenPipeError):
        prepare_data(EnvSpec(toy_copy), on_progress=fail)
    wait_until_gone(cache_dir)
    (toy_copy / "prepare.py").write_text(STUBBORN.replace("time.sleep(60)\n", "sys.exit(3)\n"))
    with pytest.raises(DataUnavailable, match="exit code 3"):
        prepare_data(EnvSpec(toy_copy))
    wait_until_gone(cache_dir)
    assert time.monotonic() - begun < 30, "nobody waited for the sleepers"


def test_two_first_runs_at_once_build_one_data_set(toy_copy: Path, tmp_path: Path) -> None:
    program = toy_copy / "prepare.py"
    note = f"open({str(tmp_path / 'count')!r}, 'a').write('x'); __import__('time').sleep(0.3)\n"
    program.write_text(program.read_text().replace("if __name__", f"{note}if __name__", 1))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: prepare_data(EnvSpec(toy_copy)), range(2))
    assert first == second
    assert (tmp_path / "count").read_text() == "x"
