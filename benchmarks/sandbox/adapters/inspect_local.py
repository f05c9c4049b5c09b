"""inspect_ai's local sandbox provider; runs in the peers' environment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version

from inspect_ai.util._sandbox.local import LocalSandboxEnvironment  # type: ignore[import-not-found]
from serve import Answer, serve


class InspectLocal:
    """One sample's sandbox."""

    about = f"inspect-ai {version('inspect-ai')}, sandbox provider local"
    python = sys.executable

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def open(self) -> None:
        """As for one sample of a task."""
        made = self.loop.run_until_complete(LocalSandboxEnvironment.sample_init("benchmark", None, {}))
        self.sandbox = made["default"]

    def put(self, name: str, text: str) -> None:
        """By its own verb."""
        self.loop.run_until_complete(self.sandbox.write_file(name, text))

    def run(self, argv: Sequence[str], timeout_s: float) -> Answer:
        """One exec."""
        try:
            result = self.loop.run_until_complete(self.sandbox.exec(list(argv), timeout=int(timeout_s)))
        except TimeoutError:
            return Answer(None, "", True)
        return Answer(result.returncode, result.stdout, False)

    def close(self) -> None:
        """As after one sample of a task."""
        made = {"default": self.sandbox}
        self.loop.run_until_complete(LocalSandboxEnvironment.sample_cleanup("benchmark", None, made, interrupted=False))


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        serve(InspectLocal(runner.get_loop()))
