"""One contender: an adapter in a process of its own, asked by JSON lines, ended by force when it does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HELLO_S = 60.0


class Hung(Exception):
    """It did not answer within the cap. It may still run: ``kill`` ends it."""


class Gone(Exception):
    """It ended by itself; the message is its last word."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Who takes part, and how it is started."""

    name: str
    ours: bool
    words: tuple[str, ...]
    """Adapter file and its arguments."""
    python: str = sys.executable


class Contender:
    """A running adapter."""

    def __init__(self, entry: Entry, scratch: Path) -> None:
        """Start it and wait for its first line.

        Raises:
            Gone, Hung: it cannot be used here.
        """
        self.errors = scratch / f"{entry.name}-{time.monotonic_ns()}.stderr"
        began = time.perf_counter()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [entry.python, str(HERE / "adapters" / entry.words[0]), *entry.words[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=surroundings(scratch),
                cwd=scratch,
                start_new_session=True,
            )
        self.buffer = b""
        try:
            hello = self.receive(HELLO_S)
        except (Gone, Hung):
            self.kill()
            raise
        self.load_s = time.perf_counter() - began
        self.about, self.python = str(hello["about"]), str(hello["python"])

    def ask(self, verb: str, cap_s: float, **words: object) -> dict[str, Any]:
        """Its reply; ``error`` is in it when the library raised.

        Raises:
            Gone, Hung: there is none.
        """
        assert self.process.stdin is not None
        if self.process.poll() is not None:
            raise Gone(self.last_words())
        try:
            self.process.stdin.write(json.dumps({"verb": verb, **words}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Gone(self.last_words()) from error
        return self.receive(cap_s)

    def must(self, verb: str, cap_s: float, **words: object) -> dict[str, Any]:
        """The same for what has to succeed.

        Raises:
            Gone, Hung: there is no reply, or an error.
        """
        reply = self.ask(verb, cap_s, **words)
        if "error" in reply:
            raise Gone(str(reply["error"]))
        return reply

    def receive(self, cap_s: float) -> dict[str, Any]:
        """Next line from it."""
        assert self.process.stdout is not None
        stop = time.monotonic() + cap_s
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(stop - time.monotonic(), 0.0))
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not ready:
                raise Hung(f"no answer in {cap_s:.0f} s")
            if not data:
                raise Gone(self.last_words())
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else f"exit code {self.process.poll()}"

    def peak_mib(self) -> float:
        """Highest resident memory so far."""
        return peak_mib(self.process.pid)

    def kill(self) -> None:
        """End its process group, which is not reaped yet, so that the number is still its own."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def end(self) -> None:
        """Close the sandbox if it still answers, then end the process. Calling twice is fine."""
        with contextlib.suppress(Gone, Hung):
            self.ask("close", 20.0)
        self.kill()


def surroundings(scratch: Path) -> dict[str, str]:
    """Environment of an adapter: nobody's settings and no key; its home is a scratch folder."""
    kept: Mapping[str, str] = {
        name: os.environ[name] for name in ("PATH", "DOCKER_HOST", "XAR_IMAGE") if name in os.environ
    }
    home = {"HOME": str(scratch), "TMPDIR": str(scratch), "LANG": "C.UTF-8", "TERM": "dumb"}
    return {**kept, **home, "MSWEA_SILENT_STARTUP": "1", "MSWEA_GLOBAL_CONFIG_DIR": str(scratch)}


def peak_mib(pid: int) -> float:
    """VmHWM of a process; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def command_line(pid: int | str) -> bytes:
    """Words of a process, each ended by NUL; empty for one that is gone or a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def marked(marker: str) -> list[int]:
    """Processes of this machine with ``marker`` on their command line, containers included."""
    wanted = marker.encode()
    numbers = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [int(number) for number in numbers if wanted in command_line(number)]


def kill_marked(marker: str) -> int:
    """Kill what carries our marker; how many there were."""
    found = marked(marker)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(found)
