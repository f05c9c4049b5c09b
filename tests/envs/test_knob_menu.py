"""knobs.toml is read strictly, and its defaults come from the repository itself."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from xar_agent.envs.knobs import Knob, read_constants, read_knobs
from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.errors import ConfigError


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A copy of the toy environment's folder."""
    folder = tmp_path / "mine"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def menu(folder: Path, text: str) -> tuple[Knob, ...]:
    """The knobs of the environment with this menu."""
    (folder / "knobs.toml").write_text(text)
    return read_knobs(EnvSpec(folder))


@pytest.mark.parametrize("name", ["toy", "nanogpt"])
def test_the_shipped_menus_fit_their_repositories(name: str) -> None:
    env = load_env(name)
    knobs = read_knobs(env)
    assert len(knobs) >= 7
    for knob in knobs:
        constant = read_constants((env.repo / knob.file).read_text())[knob.name]
        assert constant.value == knob.default
        assert knob.value_of(knob.default) == knob.default


def test_every_combination_of_model_sizes_of_nanogpt_is_a_model() -> None:
    knobs = {knob.name: knob for knob in read_knobs(load_env("nanogpt"))}
    for width, heads in itertools.product(knobs["N_EMBD"].values, knobs["N_HEAD"].values):
        assert isinstance(width, int)
        assert isinstance(heads, int)
        assert width % heads == 0


def test_a_menu_is_no_part_of_the_version_that_scores_hang_on(toy: Path) -> None:
    before = EnvSpec(toy)
    menu(toy, '[ORDER]\nfile = "model.py"\nkind = "int"\nlow = 1\nhigh = 3\n')
    after = EnvSpec(toy)
    assert (before.version, before.evaluator_version) == (after.version, after.evaluator_version)


def test_an_environment_without_a_menu_has_no_knobs(toy: Path) -> None:
    (toy / "knobs.toml").unlink()
    assert read_knobs(EnvSpec(toy)) == ()


def test_knobs_keep_the_order_of_the_file_and_take_their_defaults_from_the_source(toy: Path) -> None:
    source = (toy / "repo" / "train.py").read_text()
    (toy / "repo" / "train.py").write_text(source + '\nDECAY = "linear"\nCLIP: float = 2\nBIAS = -0.5\n')
    knobs = menu(
        toy,
        '[DECAY]\nfile = "train.py"\nkind = "choice"\nvalues = ["linear", "cosine"]\n'
        '[CLIP]\nfile = "train.py"\nkind = "float"\nlow = 1\nhigh = 4\n'
        '[BIAS]\nfile = "train.py"\nkind = "float"\nlow = -1\nhigh = 0\n'
        '[ORDER]\nfile = "model.py"\nkind = "int"\nscale = "log"\nlow = 1\nhigh = 4\n',
    )
    assert [(k.name, k.default, type(k.default)) for k in knobs] == [
        ("DECAY", "linear", str),
        ("CLIP", 2.0, float),
        ("BIAS", -0.5, float),
        ("ORDER", 2, int),
    ]


CHOICE = '[BATCH_SIZE]\nfile = "train.py"\nkind = "choice"\nvalues = [4, 8]\n'
RANGE = '[LEARNING_RATE]\nfile = "train.py"\nkind = "float"\nscale = "log"\nlow = 0.1\nhigh = 6.0\n'


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (CHOICE, "train.py", "nowhere.py", "BATCH_SIZE.file: nowhere.py is not editable"),
        (CHOICE, "train.py", "stream.py", "BATCH_SIZE.file: stream.py is not editable"),
        (CHOICE, "train.py", "../train.py", "BATCH_SIZE.file: ../train.py is not editable"),
        (CHOICE, "train.py", "train (1).py", "BATCH_SIZE.file: .* plain relative path"),
        (CHOICE, "train.py", "model.py", "BATCH_SIZE.file: model.py has no line BATCH_SIZE = "),
        (CHOICE, "[BATCH_SIZE]", "[VOCAB]", "VOCAB.file: train.py has no line VOCAB = "),
        (CHOICE, "[4, 8]", "[4, 16]", "BATCH_SIZE.values: 8 in train.py is not one of"),
        (CHOICE, "[4, 8]", "[4.0, 8.0]", "BATCH_SIZE.values: 8 in train.py is not one of"),
        (CHOICE, "[4, 8]", "[8]", "BATCH_SIZE.values: a choice needs at least two"),
        (CHOICE, "[4, 8]", "[8, 8]", "BATCH_SIZE.values: two of them are equal"),
        (CHOICE, "[4, 8]", '[8, "a, b"]', "BATCH_SIZE.values: 'a, b' is not a plain word"),
        (CHOICE, "[4, 8]", "[8, inf]", "BATCH_SIZE.values: inf is not finite"),
        (CHOICE, "values", "low = 1\nvalues", "BATCH_SIZE.low, high: a choice has values instead"),
        (CHOICE, "values = [4, 8]", "", "BATCH_SIZE.values: a choice needs at least two"),
        (CHOICE, "values", "valuez", "BATCH_SIZE.valuez"),
        (CHOICE, '"choice"', '"list"', "BATCH_SIZE.kind"),
        (CHOICE, '"train.py"', "3", "BATCH_SIZE.file"),
        (RANGE, "low = 0.1", "low = 7", "LEARNING_RATE.low: 7 is not below high = 6.0"),
        (RANGE, "low = 0.1", "low = nan", "LEARNING_RATE.low: nan is not below"),
        (RANGE, "low = 0.1", "low = 0", "LEARNING_RATE.low: 0 has no logarithm"),
        (RANGE, "low = 0.1", "low = 1.5", "LEARNING_RATE.low: 1.0 in train.py is not float from 1.5 to 6.0"),
        (RANGE, "high = 6.0", "", "LEARNING_RATE.high: is missing"),
        (RANGE, "high", "values = [1]\nhigh", "LEARNING_RATE.values: kind 'float' has low and high"),
        (RANGE, '"float"', '"int"', "LEARNING_RATE.low: kind 'int' needs whole numbers"),
        (RANGE, '"log"', '"square"', "LEARNING_RATE.scale"),
        (RANGE, "[LEARNING_RATE]", "[LEARNING_RATE", "is not TOML"),
        ("LEARNING_RATE = 3\n", "3", "4", "LEARNING_RATE"),
    ],
)
def test_a_bad_menu_is_refused_by_file_and_key(toy: Path, text: str, old: str, new: str, said: str) -> None:
    assert old in text
    with pytest.raises(ConfigError, match=said) as caught:
        menu(toy, text.replace(old, new))
    assert str(toy / "knobs.toml") in caught.value.message


def test_a_missing_file_and_a_constant_that_is_no_literal_are_named(toy: Path) -> None:
    (toy / "repo" / "model.py").unlink()
    with pytest.raises(ConfigError, match=r"ORDER.file: the repository has no model.py"):
        read_knobs(EnvSpec(toy))
    (toy / "repo" / "model.py").write_text("ORDER = 1 + len('a')\n")
    with pytest.raises(ConfigError, match=r"ORDER.file: model.py has no line ORDER = <literal>"):
        read_knobs(EnvSpec(toy))
    (toy / "repo" / "model.py").write_text("ORDER = (\n")
    with pytest.raises(ConfigError, match=r"ORDER.file: model.py cannot be read as Python"):
        read_knobs(EnvSpec(toy))


def test_a_constants_place_counts_characters_and_the_last_assignment_counts() -> None:
    source = (
        'A = 1\nß, B = 1, 2\nWORD = "größe"; RATE = -3e-3  # ü\nA = 7\n\ndef f():\n    A = 9\n\nD = A\nWORD.x = 3\n'
    )
    found = read_constants(source)
    assert {name: c.value for name, c in found.items()} == {"A": 7, "WORD": "größe", "RATE": -0.003}
    assert source[found["RATE"].start : found["RATE"].end] == "-3e-3"
    assert source[: found["A"].start].endswith("A = ")
    assert source[found["A"].start :].startswith("7\n")


@pytest.mark.parametrize(
    ("kind", "literal", "value"),
    [
        ("float", 1, 1.0),
        ("float", 0.5, 0.5),
        ("float", True, None),
        ("float", "1", None),
        ("float", 9.5, None),
        ("float", float("nan"), None),
        ("int", 3, 3),
        ("int", 3.0, None),
        ("choice", 4, 4),
        ("choice", 4.0, None),
        ("choice", True, None),
        ("choice", 5, None),
    ],
)
def test_only_values_of_the_menu_count(kind: str, literal: object, value: object) -> None:
    choice = kind == "choice"
    knob = Knob("K", "a.py", kind, "linear", 0.0, 9.0, (4, 1) if choice else (), 4)  # type: ignore[arg-type]
    found = knob.value_of(literal)
    assert found == value
    assert type(found) is type(value)
