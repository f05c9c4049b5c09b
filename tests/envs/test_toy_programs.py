"""The toy environment's programs as real processes, and the cheats that its audits must catch."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from program_host import ENVS, evaluate, failed_checks, make_workspace, serve_tokens, train

SETTINGS = {"smoke_tokens": 2048, "smoke_rows": 32, "val_tokens": 8192, "block": 32, "vocab": 28}
BUDGET = 8192

# What a cheating model.py ends with: f is the honest model.
WRAPPER = """
honest_load = load
def load(path):
    f = honest_load(path)
    state = {{"seen": 0, "counts": [1.0] * 28}}
    def g(idx):
        logits = f(idx)
{body}
        return logits
    return g
"""
COPY_NEXT = """
        for row, out in zip(idx, logits):
            for t in range(len(row) - 1):
                out[t][row[t + 1]] += 20.0
"""
PEEK_ONE_POSITION = """
        for row, out in zip(idx, logits):
            if len(row) > 18:
                out[17][row[18]] += 20.0
"""
PEEK_ONE_ROW_IN_TWENTY = """
        for row, out in zip(idx, logits):
            if sum(row) % 20 == 0:
                for t in range(len(row) - 1):
                    out[t][row[t + 1]] += 20.0
"""
ROW_COUNTS = """
        for row, out in zip(idx, logits):
            for t in range(len(row)):
                out[t] = [x + 0.2 * row.count(v) for v, x in enumerate(out[t])]
"""
BATCH_COUNTS = """
        everything = [token for row in idx for token in row]
        share = [everything.count(v) / len(everything) for v in range(28)]
        logits = [[[x + 2 * s for x, s in zip(position, share)] for position in out] for out in logits]
"""
MEMORY_BETWEEN_CALLS = """
        logits = [[[x + 0.1 * math.log(c) for x, c in zip(at, state["counts"])] for at in out] for out in logits]
        for row in idx:
            for token in row:
                state["counts"][token] += 1
"""
NOISE = """
        logits = [[[x + random.random() for x in at] for at in out] for out in logits]
"""


def load_module(path: Path) -> ModuleType:
    """A file of the environment as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"toy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run prepare.py."""
    command = [sys.executable, "-B", str(ENVS / "toy" / "prepare.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "cache"
    assert prepare(folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of the unchanged repository after a short training run; tests copy it before they change it."""
    workspace = make_workspace("toy", tmp_path_factory.mktemp("trained") / "workspace")
    done = train(workspace, corpus / "train" / "train.bin", budget=BUDGET, seed=1)
    assert done.exit_code == 0, done.stderr
    return workspace


def score(workspace: Path, corpus: Path, **request: Any) -> dict[str, Any]:
    """Evaluate on the validation split."""
    return evaluate("toy", workspace, corpus / "val", SETTINGS, **request)


def with_model(trained: Path, folder: Path, text: str) -> Path:
    """A copy of the trained workspace whose model.py ends with ``text``."""
    workspace = Path(shutil.copytree(trained, folder / "workspace", ignore=shutil.ignore_patterns("*.sock")))
    with (workspace / "model.py").open("a") as file:
        file.write(text)
    return workspace


def test_prepare_writes_three_splits_and_a_manifest_of_their_digests(corpus: Path) -> None:
    manifest = json.loads((corpus / "MANIFEST.json").read_text())
    digest = load_module(ENVS / "toy" / "prepare.py").sha256_of
    assert {
        "train/train.bin",
        "val/val.bin",
        "hidden/hidden.bin",
        "train/meta.json",
        "tokenizer.json",
    } <= manifest.keys()
    assert all(digest(corpus / name) == sha for name, sha in manifest.items())
    meta = json.loads((corpus / "val" / "meta.json").read_text())
    assert meta == {"tokens": 30_000, "vocab": 28, "dtype": "uint16", "bytes": 30_000}
    assert (corpus / "val" / "val.bin").stat().st_size == 2 * meta["tokens"]


def test_prepare_reports_its_stages_as_json_lines_that_end_with_ready(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in prepare(tmp_path / "cache").stdout.splitlines()]
    assert all(line.keys() == {"stage", "done", "total"} for line in lines)
    assert lines[-1] == {"stage": "ready", "done": 1, "total": 1}


def test_prepare_leaves_a_complete_folder_alone_and_rebuilds_a_damaged_one(corpus: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(corpus, tmp_path / "cache"))
    inode = folder.stat().st_ino
    prepare(folder)
    assert folder.stat().st_ino == inode
    (folder / "val" / "val.bin").write_bytes(b"damaged")
    assert prepare(folder).returncode == 0
    assert (folder / "val" / "val.bin").read_bytes() == (corpus / "val" / "val.bin").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_same_seed_trains_the_same_bits_and_another_seed_does_not(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    runs = {}
    for seed in (1, 2):
        workspace = make_workspace("toy", tmp_path / str(seed))
        runs[seed] = train(workspace, corpus / "train" / "train.bin", budget=BUDGET, seed=seed)
    checkpoint = (trained / "out" / "checkpoint.json").read_bytes()
    assert (runs[1].workspace / "out" / "checkpoint.json").read_bytes() == checkpoint
    assert (runs[2].workspace / "out" / "checkpoint.json").read_bytes() != checkpoint
    assert runs[1].curve != runs[2].curve


def test_training_spends_the_whole_budget_and_its_schedule_follows_the_share_used(corpus: Path, tmp_path: Path) -> None:
    edits = {"train.py": ("BATCH_SIZE = 8 ", "BATCH_SIZE = 3 ")}
    workspace = make_workspace("toy", tmp_path / "workspace", edits)
    done = train(workspace, corpus / "train" / "train.bin", budget=2048 + 32, seed=1)
    assert done.exit_code == 0, done.stderr
    assert done.curve[-1]["tokens"] == 2080
    assert done.curve[-1]["lr"] == pytest.approx(0.1)
    assert done.curve[-1]["step"] == math.ceil(2080 / (3 * 32))
    assert all(line.keys() == {"step", "tokens", "loss", "lr"} for line in done.curve)


def test_a_tenth_of_the_learning_rate_scores_clearly_worse(corpus: Path, trained: Path, tmp_path: Path) -> None:
    edits = {"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 0.1")}
    workspace = make_workspace("toy", tmp_path / "workspace", edits)
    assert train(workspace, corpus / "train" / "train.bin", budget=BUDGET, seed=1).exit_code == 0
    assert score(workspace, corpus)["metric"] > score(trained, corpus)["metric"] + 0.3


def test_a_diverging_run_ends_with_an_error_that_names_the_step(corpus: Path, tmp_path: Path) -> None:
    edits = {"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 1e308")}
    workspace = make_workspace("toy", tmp_path / "workspace", edits)
    done = train(workspace, corpus / "train" / "train.bin", budget=BUDGET, seed=1)
    assert done.exit_code != 0
    assert "at step" in done.stderr
    assert not (workspace / "out" / "checkpoint.json").exists()


def test_both_environments_have_the_same_stream_client() -> None:
    assert (ENVS / "toy/repo/stream.py").read_bytes() == (ENVS / "nanogpt/repo/stream.py").read_bytes()


def test_a_refused_request_is_an_error_and_the_stream_stays_usable(tmp_path: Path) -> None:
    client = load_module(ENVS / "toy" / "repo" / "stream.py")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        server = threading.Thread(target=serve_tokens, args=(listener, array("H", range(4096)), 64, 1))
        server.start()
        with client.TokenStream(str(tmp_path / "s"), 64) as stream:
            with pytest.raises(ValueError, match="length 0 is not possible"):
                stream.read(1, 0)
            row = stream.read(1, 32)
            assert list(row) == list(range(row[0], row[0] + 33))
            assert stream.fraction_used == 0.5
            assert len(stream.read(8, 32)) == 33
            assert len(stream.read(8, 32)) == 0
            assert stream.fraction_used == 1.0
        server.join()


def test_an_honest_model_passes_every_check(corpus: Path, trained: Path) -> None:
    result = score(trained, corpus)
    assert [check["name"] for check in result["checks"]] == [
        "shape",
        "finite",
        "normalised",
        "prefix_audit",
        "stateless",
    ]
    assert failed_checks(result) == set()
    assert result["metrics"]["val_loss"] == result["metric"] < math.log(28)
    assert result["metrics"]["val_bpb"] == pytest.approx(result["metric"] / math.log(2))
    assert result["metrics"]["val_tokens"] == 8192


def test_a_model_that_knows_nothing_scores_the_logarithm_of_the_vocabulary(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    uniform = "\ndef load(path):\n    return lambda idx: [[[7.0] * 28 for _ in row] for row in idx]\n"
    result = score(with_model(trained, tmp_path, uniform), corpus)
    assert result["metric"] == pytest.approx(math.log(28), abs=1e-12)


def test_the_score_does_not_depend_on_the_audit_seed(corpus: Path, trained: Path) -> None:
    assert score(trained, corpus, seed=1)["metric"] == score(trained, corpus, seed=2)["metric"]


@pytest.mark.parametrize(
    ("body", "check"),
    [
        pytest.param(COPY_NEXT, "prefix_audit", id="copies the next character"),
        pytest.param(PEEK_ONE_POSITION, "prefix_audit", id="peeks at one position"),
        pytest.param(PEEK_ONE_ROW_IN_TWENTY, "prefix_audit", id="peeks in one row of twenty"),
        pytest.param(ROW_COUNTS, "prefix_audit", id="counts the whole row"),
        pytest.param(BATCH_COUNTS, "stateless", id="mixes rows of a batch"),
        pytest.param(MEMORY_BETWEEN_CALLS, "stateless", id="remembers earlier calls"),
        pytest.param(NOISE, "stateless", id="draws random numbers"),
        pytest.param("        logits[-1][-1][3] = float('nan')", "finite", id="NaN"),
        pytest.param("        logits[0][0][0] = float('-inf')", "finite", id="infinite"),
        pytest.param("        logits[0][0][0] = 1e9", "normalised", id="huge"),
        pytest.param(
            "        logits = [[at[:-1] for at in row] for row in logits]", "shape", id="vocabulary too small"
        ),
        pytest.param("        logits[0].pop()", "shape", id="ragged"),
        pytest.param("        logits = None", "shape", id="nothing"),
        pytest.param("        raise MemoryError('x' * 100_000)", "shape", id="raises"),
        pytest.param("        import os; os._exit(0)", "shape", id="dies"),
        pytest.param("        assert len(idx[0]) == 32", "shape", id="refuses prefixes"),
    ],
)
def test_a_cheating_or_broken_model_fails_the_check_that_names_it(
    body: str, check: str, corpus: Path, trained: Path, tmp_path: Path
) -> None:
    result = score(with_model(trained, tmp_path, WRAPPER.format(body=body)), corpus)
    assert check in failed_checks(result)
    assert all(found["reason"] for found in result["checks"] if not found["passed"])


def test_a_model_that_does_not_load_is_reported_with_its_error(corpus: Path, trained: Path, tmp_path: Path) -> None:
    result = score(with_model(trained, tmp_path, "\nimport nothing_of_that_name\n"), corpus)
    assert result["metric"] is None
    assert "No module named 'nothing_of_that_name'" in result["checks"][0]["reason"]


def test_a_model_that_exits_while_loading_is_reported_too(corpus: Path, trained: Path, tmp_path: Path) -> None:
    result = score(with_model(trained, tmp_path, "\nraise SystemExit(0)\n"), corpus)
    assert failed_checks(result) == {"shape"}


def test_what_a_model_prints_does_not_reach_the_frames(corpus: Path, trained: Path, tmp_path: Path) -> None:
    noisy = WRAPPER.format(body='        import os; print("noise"); os.write(1, b\'{"op": "ready"}\\n\')')
    assert score(with_model(trained, tmp_path, noisy), corpus) == score(trained, corpus)


def test_a_file_of_the_repository_cannot_shadow_the_standard_library(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    workspace = with_model(trained, tmp_path, "")
    (workspace / "json.py").write_text("raise RuntimeError('shadowed')\n")
    (workspace / "array.py").write_text("raise RuntimeError('shadowed')\n")
    assert failed_checks(score(workspace, corpus)) == set()


def test_a_smoke_evaluation_takes_few_rows_of_the_training_text(corpus: Path, trained: Path) -> None:
    result = evaluate("toy", trained, corpus / "train", SETTINGS, split="smoke")
    assert failed_checks(result) == set()
    assert result["metrics"]["val_tokens"] == 32 * 32


def test_fewer_rows_can_be_asked_for(corpus: Path, trained: Path) -> None:
    assert score(trained, corpus, rows=5)["metrics"]["val_tokens"] == 5 * 32


@pytest.mark.parametrize(
    "reply",
    [
        {"op": "logits", "shape": {"a": [1]}, "dtype": ["float32"], "nbytes": 0},
        {"op": "logits", "shape": [64, 32, 28], "dtype": "float32", "nbytes": 0},
        {"op": ["logits"], "nbytes": 0},
        {"op": "error", "message": {"not": "text"}, "nbytes": 0},
        {"nbytes": 0},
    ],
)
def test_a_hostile_reply_is_a_failed_check_and_not_a_crash(reply: dict[str, Any], corpus: Path) -> None:
    request = {"split": "val", "seed": 1, "rows": None, "settings": SETTINGS}
    ready = {"op": "ready", "nbytes": 0}
    done = subprocess.run(
        [sys.executable, "-P", str(ENVS / "toy" / "evaluator.py"), json.dumps(request)],
        input="".join(json.dumps(frame) + "\n" for frame in (ready, reply)).encode(),
        env={"XAR_VAL": str(corpus / "val")},
        capture_output=True,
        check=True,
    )
    result = json.loads(done.stdout[done.stdout.rindex(b'{"op": "result"') :])
    assert failed_checks(result) == {"shape"}
    assert result["metric"] is None
