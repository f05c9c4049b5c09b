"""SWE-ReX's LocalDeployment: ``python swe_rex.py session`` (as agents use it) or ``execute``; for the peers' Python."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from serve import Answer, serve
from swerex.deployment.local import LocalDeployment  # type: ignore[import-not-found]
from swerex.exceptions import CommandTimeoutError  # type: ignore[import-not-found]
from swerex.runtime.abstract import (  # type: ignore[import-not-found]
    BashAction,
    BashInterruptAction,
    Command,
    CreateBashSessionRequest,
)


class SweRex:
    """One deployment over a fresh folder."""

    python = sys.executable

    def __init__(self, way: str, loop: asyncio.AbstractEventLoop) -> None:
        self.in_session, self.loop = way == "session", loop
        what = "run_in_session, interrupt after a time-out" if self.in_session else "execute"
        self.about = f"swe-rex {version('swe-rex')}, LocalDeployment, {what}"

    def open(self) -> None:
        """Folder, deployment, and the session."""
        self.folder = Path(tempfile.mkdtemp())
        self.deployment = LocalDeployment()
        self.loop.run_until_complete(self.deployment.start())
        if self.in_session:
            self.loop.run_until_complete(self.deployment.runtime.create_session(CreateBashSessionRequest()))
            self.act(f"cd {shlex.quote(str(self.folder))}", 10)

    def put(self, name: str, text: str) -> None:
        """It works in a folder of the host."""
        (self.folder / name).write_text(text)

    def run(self, argv: Sequence[str], timeout_s: float) -> Answer:
        """One action or command; a session is interrupted after a time-out, as SWE-agent does."""
        if self.in_session:
            return self.act(shlex.join(argv), timeout_s)
        command = Command(command=list(argv), timeout=timeout_s, cwd=str(self.folder), merge_output_streams=True)
        try:
            result = self.loop.run_until_complete(self.deployment.runtime.execute(command))
        except CommandTimeoutError:
            return Answer(None, "", True)
        return Answer(result.exit_code, result.stdout, False)

    def act(self, command: str, timeout_s: float) -> Answer:
        """One action in the session."""
        runtime = self.deployment.runtime
        action = BashAction(command=command, timeout=timeout_s, check="silent")
        try:
            result = self.loop.run_until_complete(runtime.run_in_session(action))
        except CommandTimeoutError:
            self.loop.run_until_complete(runtime.run_in_session(BashInterruptAction()))
            return Answer(None, "", True)
        return Answer(result.exit_code, result.output, False)

    def close(self) -> None:
        """Sessions and folder."""
        self.loop.run_until_complete(self.deployment.stop())
        shutil.rmtree(self.folder)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        serve(SweRex(sys.argv[1], runner.get_loop()))
