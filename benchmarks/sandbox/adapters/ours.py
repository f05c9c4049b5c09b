"""Our own back ends: ``python ours.py BACKEND [IMAGE]``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from serve import Answer, serve

from xar_agent.sandbox import Sandbox, SandboxSpec, open_sandbox


class Ours:
    """A sandbox over a fresh folder."""

    def __init__(self, backend: str, image: str | None) -> None:
        self.backend, self.image = backend, image
        self.folder = Path()
        self.sandbox: Sandbox
        self.open()  # what a back end finds out once per process is no part of a sandbox's start
        info = self.sandbox.info
        walls = f"memory bound by {info.capabilities.mem_limit}"
        self.about = ", ".join(filter(None, (info.detail or f"image {info.image}", walls)))
        self.python = info.python
        self.close()

    def open(self) -> None:
        """Folder and sandbox."""
        self.folder = Path(tempfile.mkdtemp())
        spec = SandboxSpec(workspace=self.folder, image=self.image, name="benchmark")
        self.sandbox = open_sandbox(self.backend, spec)
        self.sandbox.start()

    def put(self, name: str, text: str) -> None:
        """Into the workspace."""
        self.sandbox.write(name, text.encode())

    def run(self, argv: Sequence[str], timeout_s: float) -> Answer:
        """One exec."""
        result = self.sandbox.exec(argv, timeout_s=timeout_s)
        return Answer(result.exit_code, result.output, result.timed_out, result.n_bytes)

    def close(self) -> None:
        """Sandbox and folder."""
        self.sandbox.close()
        shutil.rmtree(self.folder)


if __name__ == "__main__":
    serve(Ours(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
