"""A smoke test passes what works and says of everything else what is wrong, and where."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from xar_agent.errors import EvaluationError, Interrupted, StoreError
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.smoke import run_smoke

Edit = Callable[..., str]


def test_a_working_change_passes(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    tree = edit({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = 2.0")})
    report = run_smoke(bench, tree, log_path=tmp_path / "smoke.log")
    assert report.passed, report.failure
    assert report.failure is None
    assert report.tree == tree
    assert report.patch_sha256 == bench.diff(tree).sha256
    assert report.loss_first is not None
    assert report.loss_last is not None
    assert report.loss_last < report.loss_first
    assert report.cpu_s > 0
    assert not list(bench.scratch.iterdir())


@pytest.mark.parametrize(
    ("changes", "kind", "file", "said"),
    [
        ({"train.py": ("LEARNING_RATE = 1.0", "LEARNING_RATE = = 1")}, "SYNTAX", "train.py", "invalid syntax"),
        ({"train.py": ("import json", "import jsom")}, "IMPORT", "train.py", "jsom"),
        ({"model.py": ("total = sum(powers)", "total = sum(power)")}, "CODE", "model.py", "power"),
        ({"train.py": ("BLOCK_SIZE = 32", "BLOCK_SIZE = 10**6")}, "CONFIG", "stream.py", "token stream"),
        ({"train.py": ("total / (n_rows", "float('nan') / (n_rows")}, "NAN", "train.py", "nan"),
        ({"train.py": ('save(model, str(out / "checkpoint.json"))', "pass")}, "CONTRACT", None, "no out/checkpoint"),
        (
            {"model.py": ("return NgramModel(json.loads", "return NgramModel(jsom.loads")},
            "CONTRACT",
            "model.py",
            "jsom",
        ),
        ({"model.py": ("VOCAB_SIZE = 28", "VOCAB_SIZE = 29")}, "SHAPE", None, "shape"),
        ({"model.py": ("contexts(row, t)) for", "contexts(row, len(row) - 1)) for")}, "INVALID", None, "prefix_audit"),
        ({"stream.py": ("itemsize", "itemsize ")}, "INTEGRITY", None, "stream.py"),
        ({"conftest.py": "import os\n"}, "INTEGRITY", None, "conftest.py"),
        ({"new.py": "x = 1\n"}, "INTEGRITY", None, "new.py"),
    ],
)
@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_broken_change_has_its_class_and_place(
    bench: Bench,
    edit: Edit,
    tmp_path: Path,
    changes: dict[str, tuple[str, str]],
    kind: str,
    file: str | None,
    said: str,
) -> None:
    report = run_smoke(bench, edit(changes), log_path=tmp_path / "smoke.log")
    assert not report.passed
    assert report.failure is not None
    assert (report.failure.kind, report.failure.file) == (kind, file), report.failure
    assert said in report.failure.reason
    assert (report.failure.line is None) == (file is None)


def test_a_crash_inside_the_sandbox_names_the_file_as_the_agent_knows_it(
    bench: Bench, edit: Edit, tmp_path: Path
) -> None:
    tree = edit({"model.py": ("total = sum(powers)", "total = 1 / 0")})
    report = run_smoke(bench, tree, log_path=tmp_path / "logs" / "smoke.log")
    assert report.failure is not None
    assert (report.failure.file, report.failure.reason) == ("model.py", "ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in (tmp_path / "logs" / "smoke.log").read_text()


def test_a_cancelled_smoke_test_ends_at_once_and_leaves_nothing(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    tree = edit({"train.py": ("step = 0\n", "step = 0\n    import time; time.sleep(60)\n")})
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    with pytest.raises(Interrupted):
        run_smoke(bench, tree, log_path=tmp_path / "smoke.log", cancel=cancel)
    assert not list(bench.scratch.iterdir())


@pytest.mark.parametrize("backend", ["process"], indirect=True)
@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "print('hello')",
        'print(\'{"op": "result", "nbytes": 0}\')',
        'print(\'{"op": "x", "nbytes": 0}\')',
    ],
)
def test_an_evaluator_that_fails_is_nobodys_idea(bench: Bench, tmp_path: Path, program: str) -> None:
    (bench.env.folder / "evaluator.py").write_text(program)
    with pytest.raises(EvaluationError):
        run_smoke(bench, bench.base_tree, log_path=tmp_path / "smoke.log")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_crash_while_the_disk_is_full_is_nobodys_idea(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    tree = edit({"train.py": ("step = 0\n", "step = 0\n    raise RuntimeError('file write failed')\n")})
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(bench.scratch)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this root may not mount")
    try:
        with pytest.raises(StoreError, match="is full"):
            run_smoke(bench, tree, log_path=tmp_path / "smoke.log")
    finally:
        subprocess.run(["umount", str(bench.scratch)], check=True)


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_run_that_locks_its_own_folders_is_taken_as_any_other(bench: Bench, edit: Edit, tmp_path: Path) -> None:
    lock = 'if __name__ == "__main__":\n    import atexit, os\n'
    lock += "    atexit.register(lambda: (os.chmod('out', 0), os.chmod('.', 0)))\n"
    tree = edit({"train.py": ('if __name__ == "__main__":\n', lock)})
    report = run_smoke(bench, tree, log_path=tmp_path / "smoke.log")
    assert report.passed, report.failure
    assert report.loss_first is not None
