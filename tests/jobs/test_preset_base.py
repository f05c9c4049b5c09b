"""A preset's constants are in the tree that patches are made against, and nothing else of the repository differs."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_gpus import make_this_machine

from xar_agent.envs.knobs import read_knobs, with_constants
from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.errors import ConfigError
from xar_agent.jobs.base import make_base
from xar_agent.jobs.baseline import baseline_path
from xar_agent.jobs.bench import open_bench
from xar_agent.jobs.machine import machine_for, machine_id
from xar_agent.jobs.runs import RunStore
from xar_agent.sandbox import tree


@pytest.fixture
def toy_copy(toy_copy: Path) -> Path:
    """The small toy environment with a second preset, of a larger model and another metric."""
    path = toy_copy / "env.toml"
    large = path.read_text().partition("[preset.default]\n")[2].partition("[preset.default.settings]")[0]
    with path.open("a") as file:
        file.write(f'\n[preset.large]\nmetric = "val_bits"\ndirection = "max"\n{large}')
        file.write('[preset.large.constants]\n"model.py" = { ORDER = 3, INIT_STD = 0.5 }\n')
        file.write('"train.py" = { BATCH_SIZE = 4 }\n')
    return toy_copy


def test_the_base_has_the_presets_literals_and_the_files_stay(toy_copy: Path, store: RunStore) -> None:
    env = EnvSpec(toy_copy)
    plain, large = (open_bench(env, name, "process", store.dir) for name in ("default", "large"))
    assert plain.base_tree != large.base_tree
    assert (large.env.metric, large.env.direction) == ("val_bits", "max")
    assert (plain.env.metric, plain.env.direction) == ("val_loss", "min")
    assert large.env.version == plain.env.version == env.version
    with large.scratch_folder("look") as folder:
        workspace = large.checkout(large.base_tree, folder)
        model, train = ((workspace / name).read_text() for name in ("model.py", "train.py"))
    assert "ORDER = 3  # characters of context" in model
    assert "INIT_STD = 0.5\n" in model
    assert "BATCH_SIZE = 4  # rows a step" in train
    assert "ORDER = 2  # characters of context" in (toy_copy / "repo" / "model.py").read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"model.py" = { ORDERS = 3 }', "model.py has no line ORDERS = <literal>"),
        ('"models.py" = { ORDER = 3 }', "the repository has no models.py"),
        ('"../env.toml" = { name = 3 }', "the repository has no ../env.toml"),
        ('"README.md" = { ORDER = 3 }', "README.md cannot be read as Python"),
    ],
)
def test_a_constant_that_is_not_there_is_refused_by_name(toy_copy: Path, tmp_path: Path, line: str, said: str) -> None:
    path = toy_copy / "env.toml"
    path.write_text(path.read_text().replace('"model.py" = { ORDER = 3, INIT_STD = 0.5 }', line))
    with pytest.raises(ConfigError, match=said):
        make_base(EnvSpec(toy_copy), "large", tmp_path / "trees", tmp_path / "scratch")


def test_only_the_literals_change() -> None:
    source = "# é\nA = 1  # a\nB: float = -2.5e-3; C = 'x'\nif True:\n    A = 9\n"
    changed = with_constants(source, {"A": 12, "C": "y z", "B": True})
    assert changed == "# é\nA = 12  # a\nB: float = True; C = 'y z'\nif True:\n    A = 9\n"
    assert with_constants(source, {}) == source


def test_every_preset_of_nanogpt_can_be_made(tmp_path: Path) -> None:
    env = load_env("nanogpt")
    found = {}
    for name in env.file.preset:
        found[name], protected = make_base(env, name, tmp_path / name, tmp_path / "scratch")
        assert "stream.py" in str(protected)
    assert found["cpu"] == tree.make_base(env.repo, tmp_path / "plain")
    assert len(set(found.values())) == len(found)


def test_a_knobs_default_is_the_presets_and_a_knob_that_does_not_offer_it_is_left_out(toy_copy: Path) -> None:
    (toy_copy / "knobs.toml").write_text(
        '[ORDER]\nfile = "model.py"\nkind = "int"\nlow = 1\nhigh = 3\n'
        '[BATCH_SIZE]\nfile = "train.py"\nkind = "choice"\nvalues = [8, 16]\n'
    )
    env = EnvSpec(toy_copy)
    assert [(knob.name, knob.default) for knob in read_knobs(env)] == [("ORDER", 2), ("BATCH_SIZE", 8)]
    assert [(knob.name, knob.default) for knob in read_knobs(env.at("large"))] == [("ORDER", 3)]


def test_the_machine_of_a_preset_with_devices_names_them(
    toy_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = EnvSpec(toy_copy)
    before = baseline_path(env, "default")
    path = toy_copy / "env.toml"
    preset = env.preset("default")
    assert machine_for(preset) == machine_id()
    with_gpus = preset.model_copy(update={"gpus": 2})
    gpus = make_this_machine(monkeypatch, tmp_path, 3)
    assert machine_for(preset) == machine_id(), "a preset without devices does not depend on those that are there"
    assert baseline_path(env, "default") == before
    (name,) = {device.name for device in gpus.devices()}
    assert machine_for(with_gpus) == f"{machine_id()}, {name} x2"
    assert machine_for(with_gpus, "Python 3.11, torch 2.13").endswith(f"Python 3.11, torch 2.13, {name} x2")
    path.write_text(path.read_text().replace("gpus = 0", "gpus = 1"))
    assert baseline_path(EnvSpec(toy_copy), "default") != before
