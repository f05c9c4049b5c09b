"""Download the wheels of the CPU image for this machine's Debian Python: the image is then built without a network.

    python tests/engine/wheelhouse.py [FOLDER]

Prints the folder. A second run finds everything there and asks nobody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "sandbox" / "image" / "requirements-cpu.txt"
PYTHON = "/usr/bin/python3"
"""The one that the test's base image gets."""


def default_folder() -> Path:
    """In the user's cache: a fresh checkout finds it again."""
    return Path(os.environ.get("XAR_CACHE") or Path.home() / ".cache" / "xar-agent") / "wheelhouse-cpu"


def fill(folder: Path) -> None:
    """Make the folder hold exactly the wheels that the requirements ask for."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    wanted = f"Python {version}\n{REQUIREMENTS.read_text()}"
    done = folder / "requirements.txt"
    if done.is_file() and done.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    argv = ["download", "--quiet", "--dest", str(folder), "--only-binary=:all:", "--python-version", version]
    subprocess.run([sys.executable, "-m", "pip", *argv, "-r", str(REQUIREMENTS)], check=True, stdout=sys.stderr)
    done.write_text(wanted)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()
    fill(target)
    print(target)
