"""Toy environments with one knob that changes nothing but the draw of chance: what a search finds in them is luck."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

TOY = Path(__file__).resolve().parents[2] / "envs" / "toy"
Changes = Mapping[str, Sequence[tuple[str, str]]]
"""File -> what is replaced in it by what, each once."""

KNOBS = """# The only knob moves a seed: no setting is better than another.

[SEED_OFFSET]
file = "train.py"
kind = "int"
low = 0
high = 1_000_000
"""
CONSTANT = "LOG_EVERY_STEPS = 4\n"
SEED = 'seed=int(os.environ["XAR_SEED"])'
PRESET = 'baseline = "baselines/default.json"\n'

WEIGHTS: Changes = {
    "env.toml": [('name = "toy"', 'name = "toy-null"'), (PRESET, "")],
    "repo/train.py": [
        (CONSTANT, f"{CONSTANT}SEED_OFFSET = 0  # added to the seed of the initial weights\n"),
        (SEED, f"{SEED} + SEED_OFFSET"),
    ],
}
"""The knob draws the initial weights anew. Which text is trained on follows from the run's seed alone."""

OLD_BATCH = '''def next_batch(stream: TokenStream) -> list[list[int]]:
    """Rows of BLOCK_SIZE + 1 characters, none when the budget is used up."""
    tokens = stream.read(BATCH_SIZE, BLOCK_SIZE).tolist()
    return [tokens[i : i + BLOCK_SIZE + 1] for i in range(0, len(tokens), BLOCK_SIZE + 1)]
'''
NEW_BATCH = '''def draw_rows(stream: TokenStream, rng: random.Random) -> list[list[int]]:
    """Rows of BLOCK_SIZE + 1 characters: the budget's, of which chance leaves USED_SHARE."""
    rows = []
    while tokens := stream.read(64, BLOCK_SIZE).tolist():
        rows += [tokens[i : i + BLOCK_SIZE + 1] for i in range(0, len(tokens), BLOCK_SIZE + 1)]
    return rng.sample(rows, max(1, round(len(rows) * USED_SHARE)))
'''
OLD_LOOP = "        while rows := next_batch(stream):\n            lr = learning_rate(stream.fraction_used)\n"
NEW_LOOP = """        drawn = draw_rows(stream, rng)
        for first in range(0, len(drawn), BATCH_SIZE):
            rows = drawn[first : first + BATCH_SIZE]
            lr = learning_rate(min(1.0, (first + BATCH_SIZE) / len(drawn)))
"""
ROWS: Changes = {
    "env.toml": [
        ('name = "toy"', 'name = "toy-null-rows"'),
        (PRESET, ""),
        ("budget = 40960 # 160 steps of 256\n", "budget = 189952 # 160 steps of 256 on a fifth of it\n"),
    ],
    "repo/train.py": [
        ("import os\n", "import os\nimport random\n"),
        (
            CONSTANT,
            f"{CONSTANT}SEED_OFFSET = 0  # added to the seed of weights and rows\nUSED_SHARE = 40960 / 189952\n",
        ),
        (SEED, "seed=seed"),
        ("    model = NgramModel(", '    seed = int(os.environ["XAR_SEED"]) + SEED_OFFSET\n    model = NgramModel('),
        (OLD_BATCH, NEW_BATCH),
        ("stream: TokenStream, metrics_path: Path)", "stream: TokenStream, rng: random.Random, metrics_path: Path)"),
        ("train(model, stream, out /", "train(model, stream, random.Random(seed), out /"),
        (OLD_LOOP, NEW_LOOP),
        ("or stream.left == 0:", "or first + BATCH_SIZE >= len(drawn):"),
        ('"tokens": stream.budget - stream.left,', '"tokens": step * BATCH_SIZE * BLOCK_SIZE,'),
    ],
}
"""The knob also draws which fifth of the text that was handed out is trained on: nearly all of the noise is its own."""

NULL_ENVS: Mapping[str, Changes] = {"toy-null": WEIGHTS, "toy-null-rows": ROWS}


def make_null_env(parent: Path, name: str) -> Path:
    """Copy the toy to ``parent/name`` and give it the knob; one that is there already is left as it is.

    Each offset is another program, another curve and another score, so neither the syntax tree nor the fidelity probe
    tells that it has no effect; but all scores come from one distribution, that of the unchanged program.

    Returns:
        The environment's folder.

    Raises:
        ValueError: the toy is no longer the program that this changes.
    """
    folder = parent / name
    if folder.exists():
        return folder
    fresh = parent / f".{name}.part"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(TOY, fresh, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    for file, changes in NULL_ENVS[name].items():
        for old, new in changes:
            replace_once(fresh / file, old, new)
    (fresh / "knobs.toml").write_text(KNOBS)
    fresh.rename(folder)
    return folder


def replace_once(path: Path, old: str, new: str) -> None:
    """Change the one place in a file that reads so.

    Raises:
        ValueError: there is none, or several.
    """
    text = path.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{path} has {text.count(old)} times {old!r}, not once")
    path.write_text(text.replace(old, new))
