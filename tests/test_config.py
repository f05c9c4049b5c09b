"""Settings: one file, the environment, flags, in this order; wrong input names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from xar_agent.config import load_settings
from xar_agent.errors import ConfigError

KEY = "sk-planted-0123456789abcdef"


def user_file(home: Path, text: str) -> Path:
    path = home / ".config" / "xar-agent" / "xar.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold(tmp_path: Path, home: Path) -> None:
    settings = load_settings(environ={"HOME": str(home)}, cwd=tmp_path)
    assert (settings.env, settings.sandbox, settings.model, settings.budget_usd) == ("nanogpt", "auto", None, None)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "xar.toml").write_text('model = "file/m"\nenv = "toy"\nsandbox = "process"\n')
    environ = {"XAR_MODEL": "environment/m", "XAR_SANDBOX": "bubblewrap"}
    settings = load_settings({"model": "flag/m", "seeds": None}, environ=environ, cwd=tmp_path)
    assert (settings.model, settings.sandbox, settings.env, settings.seeds) == ("flag/m", "bubblewrap", "toy", 1)


def test_the_working_directorys_file_replaces_the_users(tmp_path: Path, home: Path) -> None:
    user_file(home, "seeds = 7\nrepairs = 3\n")
    environ = {"HOME": str(home)}
    assert load_settings(environ=environ, cwd=tmp_path).seeds == 7
    (tmp_path / "xar.toml").write_text("seeds = 2\n")
    local = load_settings(environ=environ, cwd=tmp_path)
    assert (local.seeds, local.repairs) == (2, 1)


def test_an_empty_environment_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load_settings(environ={"XAR_MODEL": ""}, cwd=tmp_path).model is None


def test_relative_folders_become_absolute_and_home_is_expanded(tmp_path: Path, home: Path) -> None:
    settings = load_settings({"runs_dir": "~/r"}, environ={"XAR_CACHE": "c"}, cwd=tmp_path)
    assert settings.runs_dir == home / "r"
    assert settings.cache_dir == Path.cwd() / "c"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sedes = 3", "sedes"),
        ('seeds = "many"', "seeds"),
        ("seeds = 0", "seeds"),
        ('sandbox = "jail"', "sandbox"),
        ('image = "--privileged"', "image"),
        ('image = "lab/sk-planted-0123456789abcdef:1"', "image"),
        ("budget_usd = -1", "budget_usd"),
        ("seeds = ", "TOML"),
    ],
)
def test_a_bad_file_is_an_error_that_names_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "xar.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={}, cwd=tmp_path)
    assert str(path) in caught.value.message
    assert named in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_bad_environment_variable_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="XAR_SANDBOX"):
        load_settings(environ={"XAR_SANDBOX": "jail"}, cwd=tmp_path)


def test_a_bad_flag_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--max-steps"):
        load_settings({"max_steps": 0}, environ={}, cwd=tmp_path)


def test_a_key_in_the_file_is_refused_without_repeating_it(tmp_path: Path) -> None:
    (tmp_path / "xar.toml").write_text(f'openai_api_key = "{KEY}"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={}, cwd=tmp_path)
    assert "never stored" in caught.value.hint
    assert KEY not in caught.value.message + caught.value.hint


def test_a_key_inside_an_url_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="XAR_API_BASE") as caught:
        load_settings(environ={"XAR_API_BASE": f"http://u:{KEY}@host/v1"}, cwd=tmp_path)
    assert KEY not in caught.value.message + caught.value.hint


def test_settings_do_not_change_once_loaded(tmp_path: Path) -> None:
    settings = load_settings(environ={}, cwd=tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.seeds = 3


def test_the_image_comes_from_the_environment_too(tmp_path: Path) -> None:
    settings = load_settings(
        environ={"XAR_IMAGE": "registry.lab:5000/train@sha256:0123", "XAR_SANDBOX": "docker"}, cwd=tmp_path
    )
    assert (settings.sandbox, settings.image) == ("docker", "registry.lab:5000/train@sha256:0123")


def test_a_data_source_is_a_path_made_absolute_or_the_name_of_a_hub_data_set(tmp_path: Path, home: Path) -> None:
    (tmp_path / "xar.toml").write_text('data = "~/corpus"\n')
    assert load_settings(environ={"HOME": str(home)}, cwd=tmp_path).data == str(home / "corpus")
    environ = {"XAR_DATA_SOURCE": "hub:someone/corpus#3"}
    assert load_settings(environ=environ, cwd=tmp_path).data == "hub:someone/corpus#3"
    assert load_settings({"data": "mine.bin"}, environ=environ, cwd=tmp_path).data == str(Path.cwd() / "mine.bin")
