"""A data set is prepared once, checked each time, and never half there."""

from __future__ import annotations

import json
from pathlib import Path

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
