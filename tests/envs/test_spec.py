"""env.toml is read strictly, environments are found by name, and versions follow what they stand for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from xar_agent.envs.spec import Baseline, EnvSpec, list_envs, load_env, read_env_file
from xar_agent.errors import ConfigError, UnknownName


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A copy of the toy environment's folder."""
    folder = tmp_path / "mine"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_shipped_environments_are_found_and_complete() -> None:
    assert {"toy", "nanogpt"} <= set(list_envs())
    for name in ("toy", "nanogpt"):
        env = load_env(name)
        assert (env.name, env.direction) == (name, "min")
        assert env.preset(env.default_preset).memory_mib > 0
        for program in (*env.file.evaluate, env.file.worker, env.file.prepare, "README.md"):
            assert (env.folder / program).is_file(), program
        for program in (*env.file.train[:1], "stream.py", "README.md"):
            assert (env.repo / program).is_file(), program


def test_an_unknown_environment_or_preset_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnknownName, match="'tpy'") as caught:
        load_env("tpy")
    assert "toy" in caught.value.hint
    with pytest.raises(UnknownName, match="'full'") as caught:
        load_env("toy").preset("full")
    assert "default" in caught.value.hint


def test_a_folder_is_an_environment_by_path_and_through_the_search_path(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_env(str(toy)).folder == toy
    monkeypatch.setenv("XAR_ENVS", str(toy))
    assert load_env("mine").folder == toy
    with pytest.raises(ConfigError, match="does not exist"):
        load_env("./nowhere")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('metric = "val_loss"', 'metrik = "val_loss"', "metric"),
        ('metric = "val_loss"', 'metric = "val_loss"\nextra = 1', "extra"),
        ('direction = "min"', 'direction = "down"', "direction"),
        ("budget = 40960", 'budget = "many"', "budget"),
        ('clock = "tokens"', 'clock = "steps"', "clock"),
        ('name = "toy"', 'name = "toy', "not TOML"),
        ("budget = 40960", "budget = 0", "budget"),
        ('prepare = "prepare.py"', 'prepare = "/elsewhere/prepare.py"', "leads out of"),
        ('worker = "worker.py"', 'worker = "../worker.py"', "leads out of"),
    ],
)
def test_a_wrong_key_is_named(toy: Path, old: str, new: str, said: str) -> None:
    rewrite(toy / "env.toml", old, new)
    with pytest.raises(ConfigError, match=said):
        read_env_file(toy / "env.toml")


def test_a_file_without_any_preset_or_in_another_encoding_is_the_users_error(toy: Path) -> None:
    text = (toy / "env.toml").read_text()
    (toy / "env.toml").write_text(text[: text.index("[preset.")] + "[preset]\n")
    with pytest.raises(ConfigError, match="preset"):
        EnvSpec(toy)
    (toy / "env.toml").write_bytes(text.encode() + b"# \xff\n")
    with pytest.raises(ConfigError, match="not TOML"):
        EnvSpec(toy)


def test_a_memory_size_that_is_none_is_an_error_of_the_file(toy: Path) -> None:
    rewrite(toy / "env.toml", 'memory = "512m"', 'memory = "lots"')
    env = EnvSpec(toy)
    with pytest.raises(ConfigError, match="'lots' is not a size"):
        _ = env.preset("default").memory_mib
    assert load_env("nanogpt").preset("cpu").memory_mib == 2048


@pytest.mark.parametrize(
    ("name", "what_agents_see", "what_scores"),
    [
        ("repo/train.py", True, False),
        ("env.toml", True, False),
        ("evaluator.py", False, True),
        ("worker.py", False, True),
        ("prepare.py", False, True),
        ("README.md", False, False),
    ],
)
def test_a_version_changes_with_what_it_stands_for_and_nothing_else(
    toy: Path, name: str, what_agents_see: bool, what_scores: bool
) -> None:
    before = EnvSpec(toy)
    (toy / name).write_text((toy / name).read_text() + "\n# more\n")
    after = EnvSpec(toy)
    assert (before.version != after.version) is what_agents_see
    assert (before.evaluator_version != after.evaluator_version) is what_scores


def test_compiled_files_do_not_change_a_version(toy: Path) -> None:
    before = EnvSpec(toy)
    (toy / "repo" / "__pycache__").mkdir(exist_ok=True)
    (toy / "repo" / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"x")
    assert EnvSpec(toy).version == before.version


def test_a_shipped_baseline_of_other_files_does_not_count(toy: Path) -> None:
    env = EnvSpec(toy)
    fields = {
        "preset": "default",
        "machine": "m",
        "mean": 1.0,
        "sd": 0.1,
        "n": 20,
        "values": {},
        "cpu_s": 1.0,
        "curve": [],
    }
    versions = {"env_version": env.version, "evaluator_version": env.evaluator_version}
    fits = Baseline.model_validate({**versions, **fields})
    path = toy / "baselines" / "default.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(fits.model_dump_json())
    found = env.shipped_baseline("default")
    assert found is not None
    assert found.shipped
    path.write_text(fits.model_copy(update={"evaluator_version": "other"}).model_dump_json())
    assert env.shipped_baseline("default") is None
    path.unlink()
    assert env.shipped_baseline("default") is None


def test_a_preset_has_its_own_metric_contract_and_data_program() -> None:
    env = load_env("nanogpt")
    fast = env.at("speedrun")
    assert (fast.metric, fast.direction) == ("minutes_to_target", "min")
    assert "V = 50304" in fast.file.contract
    assert "3.28" in fast.file.contract
    assert env.at("cpu").metric == env.metric == "val_loss"
    assert "V = 1024" in env.at("cpu").file.contract
    for preset in env.file.preset:
        assert "{" not in env.at(preset).file.contract
        assert env.prepare_program(preset).is_file()


def test_another_data_program_concerns_the_scores_of_its_preset_only(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(load_env("nanogpt").folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = EnvSpec(folder)
    small, large = (before.at(preset).evaluator_version for preset in ("cpu", "full"))
    rewrite(folder / "prepare_tokens.py", "import", "# other\nimport")
    after = EnvSpec(folder)
    assert after.at("cpu").evaluator_version == small == before.evaluator_version
    assert after.at("full").evaluator_version != large
    assert after.version == before.version
