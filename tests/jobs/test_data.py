"""A data set is prepared once, checked each time, and never half there."""

from __future__ import annotations

import json
import os
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
from xar_agent.jobs.data import PrepareProgress, find_data, prepare_data
from xar_agent.jobs.intact import verify


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
    (tmp_path / "mine.bin").write_bytes(b"12")
    with pytest.raises(DataUnavailable, match=f"--source {tmp_path / 'mine.bin'}$") as caught:
        prepare_data(EnvSpec(toy_copy), source=str(tmp_path / "mine.bin"))
    assert "--data" in (caught.value.hint or "")
    with pytest.raises(DataUnavailable, match="--source hub:someone/corpus$"):
        prepare_data(EnvSpec(toy_copy), source="hub:someone/corpus")


def test_a_source_that_is_not_there_is_said_before_anything_runs(toy_copy: Path, tmp_path: Path) -> None:
    (toy_copy / "prepare.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "nowhere.bin", tmp_path / "empty"):
        with pytest.raises(DataUnavailable, match=f"no data in .*{missing.name}"):
            prepare_data(EnvSpec(toy_copy), source=str(missing))


TAKES_A_SOURCE = """
import sys
from pathlib import Path
sys.argv[2:], source = [], Path(sys.argv[3])
exec(Path(__file__).with_name("whole.py").read_text())
"""


def test_another_source_or_a_changed_one_has_a_folder_of_its_own(toy_copy: Path, tmp_path: Path) -> None:
    (toy_copy / "prepare.py").rename(toy_copy / "whole.py")
    (toy_copy / "prepare.py").write_text(TAKES_A_SOURCE)
    env, folders = EnvSpec(toy_copy), set()
    for name, content in (("a", b"12"), ("b", b"12"), ("b", b"123")):
        (tmp_path / name).write_bytes(content)
        data = prepare_data(env, source=str(tmp_path / name))
        assert find_data(env, source=str(tmp_path / name)) == data
        folders.add(data.folder)
    assert len(folders) == 3
    assert find_data(env) is None


def test_a_preset_may_have_a_program_of_its_own(toy_copy: Path) -> None:
    (toy_copy / "other.py").write_text((toy_copy / "prepare.py").read_text() + "\n# other\n")
    settings = (toy_copy / "env.toml").read_text()
    larger = settings.replace("[preset.default", "[preset.larger").split("[preset.larger]", 1)[1]
    (toy_copy / "env.toml").write_text(f'{settings}\n[preset.larger]\nprepare = "other.py"\n{larger}')
    env = EnvSpec(toy_copy)
    assert prepare_data(env, "default") == prepare_data(env)
    assert prepare_data(env, "larger").folder != prepare_data(env).folder


def test_the_corpus_is_what_the_recipe_says_else_the_environment(toy_copy: Path) -> None:
    assert prepare_data(EnvSpec(toy_copy)).corpus == "toy"
    program = toy_copy / "prepare.py"
    program.write_text(program.read_text().replace('{"version"', '{"corpus": "some text\\n 1.0", "version"'))
    assert prepare_data(EnvSpec(toy_copy)).corpus == "some text 1.0"


def test_looking_for_a_data_set_prepares_and_writes_nothing(toy_copy: Path, cache_dir: Path) -> None:
    env = EnvSpec(toy_copy)
    assert find_data(env) is None
    assert not cache_dir.exists() or not list(cache_dir.rglob("*"))
    data = prepare_data(env)
    assert find_data(env) == data
    assert data.n_tokens("train") == len(data.train_tokens())
    (data.split("val") / "val.bin").unlink()
    assert find_data(env) is None


LARGE = """
import hashlib, json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
for name in ("train", "val", "hidden", "smoke"):
    (folder / name).mkdir(parents=True, exist_ok=True)
with (folder / "train" / "train.bin").open("wb") as file:
    file.truncate(40 << 20)
os.link(folder / "train" / "train.bin", folder.parent / "users.bin")
(folder.parent / "users.bin").chmod(0o600)
(folder / "val" / "val.bin").write_bytes(b"12")
names = ["train/train.bin", "val/val.bin"]
digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
(folder / "MANIFEST.json").write_text(json.dumps(digests))
"""


def test_a_large_file_is_read_through_once_and_again_when_it_may_have_changed(toy_copy: Path) -> None:
    (toy_copy / "prepare.py").write_text(LARGE)
    heard: list[PrepareProgress] = []
    data = prepare_data(EnvSpec(toy_copy), on_progress=heard.append)
    assert heard[-1] == PrepareProgress("verify", 40 << 20, 40 << 20)
    assert prepare_data(EnvSpec(toy_copy), on_progress=lambda _: pytest.fail("read again")) == data
    large = data.folder / "train" / "train.bin"
    with large.open("r+b") as file:
        file.write(b"x")
    os.utime(large, ns=(0, 0))  # its date can be forged, the time of that cannot
    assert verify(data.folder) is None
    with large.open("r+b") as file:
        file.write(b"\0")
    heard.clear()
    assert prepare_data(EnvSpec(toy_copy), on_progress=heard.append) == data
    assert {p.stage for p in heard} == {"verify"}


def test_who_may_read_a_users_own_file_is_left_as_it_was(toy_copy: Path) -> None:
    (toy_copy / "prepare.py").write_text(LARGE)
    data = prepare_data(EnvSpec(toy_copy))
    assert (data.folder.parent / "users.bin").stat().st_mode & 0o777 == 0o600
    assert (data.split("val") / "val.bin").stat().st_mode & 0o777 == 0o644


def test_a_set_with_a_piece_of_training_text_for_smoke_tests_shows_them_that(toy_copy: Path) -> None:
    (toy_copy / "prepare.py").write_text(LARGE)
    data = prepare_data(EnvSpec(toy_copy))
    assert data.split("smoke") == data.folder / "smoke"


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
