"""mini-swe-agent's LocalEnvironment; runs in the peers' environment."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from minisweagent.environments.local import LocalEnvironment  # type: ignore[import-not-found]
from serve import Answer, serve


class MiniSweAgent:
    """One environment over a fresh folder."""

    about = f"mini-swe-agent {version('mini-swe-agent')}, LocalEnvironment"
    python = sys.executable

    def open(self) -> None:
        """Folder and environment."""
        self.folder = Path(tempfile.mkdtemp())
        self.environment = LocalEnvironment(cwd=str(self.folder))

    def put(self, name: str, text: str) -> None:
        """It works in a folder of the host."""
        (self.folder / name).write_text(text)

    def run(self, argv: Sequence[str], timeout_s: float) -> Answer:
        """One action."""
        result = self.environment.execute({"command": shlex.join(argv)}, timeout=int(timeout_s))
        late = result.get("extra", {}).get("exception_type") == "TimeoutExpired"
        return Answer(result["returncode"], result["output"], late)

    def close(self) -> None:
        """It has nothing to close."""
        shutil.rmtree(self.folder)


if __name__ == "__main__":
    serve(MiniSweAgent())
