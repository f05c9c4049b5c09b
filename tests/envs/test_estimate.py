"""The memory that is stated beforehand is what a real step uses, and the operations are those of the formula."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xar_agent.envs.knobs import with_constants
from xar_agent.envs.spec import Constant, load_env

pytestmark = pytest.mark.torch
ENV = load_env("nanogpt")
TOLERANCE = 0.15
"""Of the measured peak: scratch space of the matrix library, and pages of the allocator."""
MEASURED: dict[str, dict[str, Constant]] = {
    "model.py": {"VOCAB_SIZE": 8192, "N_LAYER": 3, "N_EMBD": 128},
    "train.py": {"BATCH_SIZE": 8, "BLOCK_SIZE": 512},
}
STEP = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch, train
def of_status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
torch.set_num_threads(1)
def step(rows):
    model = train.GPT(train.BLOCK_SIZE)
    x = torch.randint(0, train.VOCAB_SIZE, (rows, train.BLOCK_SIZE))
    train.compute_loss(model, x, x).backward()
step(1)  # what is set up once
Path("/proc/self/clear_refs").write_text("5")
before = of_status("VmRSS")
step(train.BATCH_SIZE)
print(of_status("VmHWM") - before)
"""


def sources(constants: dict[str, dict[str, Constant]]) -> dict[str, str]:
    files = {path.name: path.read_text() for path in ENV.repo.glob("*.py")}
    return {name: with_constants(text, constants.get(name, {})) for name, text in files.items()}


def estimate(files: dict[str, str], *, gpus: int, bf16: bool) -> dict[str, int]:
    request = json.dumps({"files": files, "gpus": gpus, "bf16": bf16})
    argv = [sys.executable, "-B", "-P", str(ENV.folder / "estimate.py")]
    done = subprocess.run(argv, input=request, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_peak_is_that_of_a_real_step(tmp_path: Path) -> None:
    files = sources(MEASURED)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    argv = [sys.executable, "-B", "-P", "-c", STEP, str(tmp_path)]
    measured = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    found = estimate(files, gpus=0, bf16=False)
    stated = found["peak_bytes"] - found["optimizer_bytes"]  # the real step makes no update
    assert measured > 300e6, "large enough for the rest not to matter"
    assert stated == pytest.approx(measured, rel=TOLERANCE)


def test_the_full_preset_is_gpt_2_small_and_attention_leaves_no_square_of_its_length() -> None:
    preset = ENV.preset("full")
    found = estimate(sources(preset.constants), gpus=preset.gpus, bf16=True)
    n, length, width, depth = found["parameters"], 1024, 768, 12
    assert n == pytest.approx(124.4e6, rel=0.001)
    assert found["flops_per_token"] == pytest.approx(6 * n + 12 * depth * width * length, rel=0.01)
    assert found["weights_bytes"] == found["gradients_bytes"] == 4 * n
    assert found["optimizer_bytes"] == pytest.approx(8 * n, rel=0.001)
    assert found["tokens_per_step"] == 262_144
    twice = {name: dict(literals) for name, literals in preset.constants.items()}
    twice["train.py"] |= {"BLOCK_SIZE": 2048, "BATCH_SIZE": 128}
    twice["parallel.py"] = {"MICRO_BATCH_SIZE": found["micro_batch_rows"] // 2}
    longer = estimate(sources(twice), gpus=preset.gpus, bf16=True)
    assert longer["activations_bytes"] == pytest.approx(found["activations_bytes"], rel=0.02)
