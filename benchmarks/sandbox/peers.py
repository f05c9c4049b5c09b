"""The peers' own Python environment, made once per version list and kept in the cache folder."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = {
    "mini-swe-agent": ("mini-swe-agent", ("mini_swe_agent.py",)),
    "swe-rex-session": ("swe-rex", ("swe_rex.py", "session")),
    "swe-rex-execute": ("swe-rex", ("swe_rex.py", "execute")),
    "inspect-local": ("inspect-ai", ("inspect_local.py",)),
}
"""Contender -> its project and its adapter. SWE-ReX has two ways to run a command."""
INSTALL_S = 900


def pins() -> dict[str, str]:
    """Project -> requirement, as ``peers.txt`` has them."""
    lines = (HERE / "peers.txt").read_text().splitlines()
    return {line.partition("==")[0]: line.strip() for line in lines if "==" in line}


def peers_python() -> tuple[str, dict[str, str]]:
    """Interpreter of the environment, and project -> why it cannot be installed."""
    key = hashlib.sha256(repr((pins(), platform.python_version())).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XAR_CACHE") or Path.home() / ".cache" / "xar-agent")
    folder = cache / f"sandbox-peers-{key}"
    python, done = folder / "bin" / "python", folder / "complete"
    if done.exists():
        return str(python), {}
    print(f"installing {', '.join(pins().values())} into {folder}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    if not install(python, *pins().values()):
        done.touch()
        return str(python), {}
    return str(python), {name: why for name, pin in pins().items() if (why := install(python, pin))}


def install(python: Path, *requirements: str) -> str:
    """Empty when it went well, else pip's last line. Wheels only, so that nothing is compiled here."""
    argv = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    try:
        ended = subprocess.run([*argv, *requirements], capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return f"pip did not end within {INSTALL_S} s"
    lines = ended.stderr.strip().splitlines() or [f"pip ended with {ended.returncode}"]
    return lines[-1] if ended.returncode else ""
