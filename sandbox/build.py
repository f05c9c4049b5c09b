"""Build the image that the Docker back end runs commands in: ``python -m xar_agent.sandbox.build cpu|gpu``.

The engine's own builder is asked over its API, so neither its command line nor a builder plug-in is needed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from xar_agent.errors import ConfigError, SandboxError, XarError
from xar_agent.sandbox.engine import connect, explain
from xar_agent.sandbox.images import CPU_IMAGE, GPU_IMAGE

FOLDER = Path(__file__).parent / "image"
"""Requirement files, and a link to the repository's Dockerfile that is a file in an installed package."""
TAGS = {"cpu": CPU_IMAGE, "gpu": GPU_IMAGE}
CPU_BASE = "debian:bookworm-slim"
QUIET_S = 1800
"""Longest silence of the engine: pip says nothing while it unpacks some gigabytes."""
LAST_LINES = 20
LINE_CHARACTERS = 240
"""A command of the Dockerfile is one long line, and the engine repeats it."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class BuildFailed(SandboxError):
    """The engine could not build the image."""


def build(
    kind: str, *, base: str = "", tag: str = "", wheelhouse: Path | None = None, index: str = "", network: bool = True
) -> str:
    """Build an image and say its name; the engine's output goes to stderr as it comes.

    Args:
        kind: "cpu" or "gpu".
        base: the image to start from; "": Debian for "cpu", the Dockerfile's CUDA base for "gpu".
        tag: its name; "": the one that the back end looks for.
        wheelhouse: a folder with all wheels; nothing is then fetched from a package index.
        index: a further package index, for instance one with torch's CPU builds.
        network: whether the build's commands have one.

    Raises:
        CapabilityMissing: no engine answers.
        ConfigError: there is no wheel in the wheelhouse.
        BuildFailed: the build went wrong; the message has its last lines.
    """
    tag = tag or TAGS[kind]
    arguments = {"KIND": kind, "PIP_EXTRA_INDEX_URL": index}
    if base or kind == "cpu":
        arguments["BASE"] = base or CPU_BASE
    client = connect()
    try:
        with tempfile.TemporaryFile() as context:
            write_context(context, wheelhouse)
            context.seek(0)
            _build(client, context, tag, arguments, network=network)
    finally:
        client.close()
    return tag


def write_context(out: IO[bytes], wheelhouse: Path | None) -> None:
    """All that the build may see, as a tar: no key, run or checkout can slip in.

    Raises:
        ConfigError: there is no wheel in the wheelhouse.
    """
    with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
        tar.add(FOLDER / "Dockerfile.gpu", arcname="Dockerfile.gpu", filter=_plain)
        for path in sorted(FOLDER.glob("requirements-*.txt")):
            tar.add(path, arcname=f"sandbox/image/{path.name}", filter=_plain)
        if wheelhouse is None:
            return
        wheels = sorted(wheelhouse.glob("*.whl"))
        if not wheels:
            raise ConfigError(f"no wheels in {wheelhouse}", "fill it: pip download -d FOLDER -r requirements-cpu.txt")
        for path in wheels:
            tar.add(path, arcname=f"sandbox/image/wheelhouse/{path.name}", filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same for everyone who builds, so that the engine finds its earlier layers again."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode, entry.mtime = 0o644, 0
    return entry


def _build(client: Any, context: IO[bytes], tag: str, arguments: Mapping[str, str], *, network: bool) -> None:
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        events = client.build(
            fileobj=context,
            custom_context=True,
            dockerfile="Dockerfile.gpu",
            tag=tag,
            buildargs=dict(arguments),
            network_mode=None if network else "none",
            rm=True,
            forcerm=True,
            decode=True,
            timeout=QUIET_S,
        )
        show(events)
    except (DockerException, RequestException) as error:
        raise BuildFailed(f"the engine could not build {tag}: {explain(error)}") from error


def show(events: Iterable[Mapping[str, Any]]) -> None:
    """Pass the build's output on to stderr until it ends.

    Raises:
        BuildFailed: it ended with an error; the message has the last lines.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    for event in events:
        text = str(event.get("stream") or "")
        sys.stderr.write(text)
        sys.stderr.flush()
        last.extend(line[:LINE_CHARACTERS] for line in _COLOUR.sub("", text).splitlines() if line.strip())
        if "error" in event:
            raise BuildFailed(
                "\n".join(["the image was not built; its last lines:", *last, str(event["error"]).strip()])
            )


def main() -> None:
    """The command: the image's name on stdout, progress and errors on stderr."""
    parser = argparse.ArgumentParser(prog="python -m xar_agent.sandbox.build", description=__doc__)
    parser.add_argument("kind", choices=sorted(TAGS))
    parser.add_argument("--base", default="", help="image to start from")
    parser.add_argument("--tag", default="", help="name of the image, if another than the back end looks for")
    parser.add_argument("--wheelhouse", type=Path, help="folder with all wheels: no package index is asked")
    parser.add_argument("--index", default="", help="a further package index, such as one with torch's CPU builds")
    parser.add_argument("--no-network", action="store_true", help="the build's commands have no network")
    given = parser.parse_args()
    try:
        print(
            build(
                given.kind,
                base=given.base,
                tag=given.tag,
                wheelhouse=given.wheelhouse,
                index=given.index,
                network=not given.no_network,
            )
        )
    except XarError as error:
        print(f"error: {error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
