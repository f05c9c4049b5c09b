"""The launcher puts the repository behind the standard library and runs its program as main."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from xar_agent.jobs import frames

LAUNCHER = Path(frames.__file__).resolve().with_name("launch.py")


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(LAUNCHER), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_program_runs_as_main_with_its_arguments_and_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("NAME = 'mine'\n")
    (tmp_path / "train.py").write_text("import sys, model\nif __name__ == '__main__': print(model.NAME, sys.argv)\n")
    assert launch(tmp_path, "train.py", "--fast").stdout.startswith("mine ['")
    assert launch(tmp_path, "train.py", "--fast").stdout.rstrip().endswith("'--fast']")


def test_a_file_named_like_a_standard_module_does_not_replace_it(tmp_path: Path) -> None:
    for name in ("json.py", "random.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('replaced')\n")
    (tmp_path / "train.py").write_text("import json, random; print(json.dumps([1]))\n")
    done = launch(tmp_path, "train.py")
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr


def test_the_exit_code_and_the_traceback_are_the_programs_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("\n\nraise SystemExit(7)\n")
    assert launch(tmp_path, "train.py").returncode == 7
    (tmp_path / "train.py").write_text("\n\n1 / 0\n")
    assert f'File "{tmp_path}/train.py", line 3' in launch(tmp_path, "train.py").stderr
