"""Every planted cheat and honest edit as a patch: it applies to the repository, or is refused where it must be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cheat_files import ENVIRONMENTS, SUITE, Repository, cheats_of, expected_of, honest_edits, name_of

from xar_agent.errors import PatchRefused

sys.path.append(str(SUITE))
from suite import CHECKS, CLASSES, NO_EFFECT  # noqa: E402  - a script of the benchmarks, not a package

REFUSED = "INTEGRITY"
CHEATS = [pytest.param(env, path, id=f"{env}-{name_of(path)}") for env in ENVIRONMENTS for path in cheats_of(env)]
HONEST = [pytest.param(path, id=name_of(path)) for path in honest_edits()]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repository]:
    """Every environment that has cheats."""
    return {env: Repository.of(env, tmp_path_factory.mktemp(env)) for env in ENVIRONMENTS}


@pytest.mark.parametrize(("env", "path"), CHEATS)
def test_a_cheat_names_a_known_check_and_applies_or_is_refused_as_it_says(
    env: str, path: Path, repositories: dict[str, Repository], tmp_path: Path
) -> None:
    expected, what = expected_of(path), path.read_text().splitlines()[1]
    assert expected in CHECKS | CLASSES | {NO_EFFECT}
    assert what.startswith("# ")
    assert what.endswith(".")
    if expected == REFUSED and "run_time" not in path.stem:  # at run time it is the job that refuses
        with pytest.raises(PatchRefused) as refused:
            repositories[env].patched(path.read_text(), tmp_path)
        assert "patch failed" not in refused.value.message  # refused for what it is, not for being out of date
    else:
        assert repositories[env].patched(path.read_text(), tmp_path / "workspace").is_dir()


@pytest.mark.parametrize("path", HONEST)
def test_an_honest_edit_says_what_it_changes_and_applies(
    path: Path, repositories: dict[str, Repository], tmp_path: Path
) -> None:
    assert path.read_text().startswith("# ")
    assert repositories["nanogpt"].patched(path.read_text(), tmp_path / "workspace").is_dir()


def test_there_are_as_many_attempts_of_each_kind_as_the_documentation_says() -> None:
    assert len(cheats_of("nanogpt")) >= 25
    assert len(cheats_of("toy")) >= 8
    assert len(honest_edits()) >= 30
