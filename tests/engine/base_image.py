"""Make the tests' base image from this machine's own Debian packages: no registry, no network.

    python tests/engine/base_image.py [TAG]

The files of a few packages and of all they depend on go as one tar stream into the engine at DOCKER_HOST. Run it on
Debian or Ubuntu with the packages installed; it says which are missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import docker

TAG = "xar-agent-test:base"
LABEL = "xar-agent.test=1"
WANTED = ("bash", "dash", "git", "libgomp1", "libstdc++6", "procps", "python3", "python3-venv", "util-linux")
LEFT_OUT = ("/usr/share/doc", "/usr/share/info", "/usr/share/lintian", "/usr/share/locale", "/usr/share/man")
FIELDS = "${Package}\t${db:Status-Status}\t${Essential}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
"""Links into usr/ since Debian 12 and Ubuntu 20.04, while packages still list files below them."""
EMPTY = {"dev": 0o755, "home": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755, "sys": 0o555, "tmp": 0o1777}
ALTERNATIVES = Path("/var/lib/dpkg/alternatives")


def names(relations: str) -> Iterator[list[str]]:
    """The alternatives of each relation: ``a (>= 1) | b, c`` gives [a, b], [c]."""
    for relation in relations.split(","):
        found = [re.split(r"[ (:]", part.strip())[0] for part in relation.split("|")]
        if any(found):
            yield found


def closure(wanted: Iterable[str]) -> list[str]:
    """Those packages, the essential ones and all that they depend on, as installed here."""
    listing = subprocess.run(["dpkg-query", "-W", "-f", FIELDS], check=True, capture_output=True, text=True).stdout
    depends: dict[str, str] = {}
    providers: dict[str, str] = {}
    todo = list(wanted)
    for line in listing.splitlines():
        package, status, essential, relations, provides = line.split("\t")
        if status != "installed":
            continue
        depends[package] = relations
        todo += [package] if essential == "yes" else []
        providers.update({name: package for [name] in names(provides)})
    if missing := [package for package in todo if package not in depends]:
        sys.exit(f"not installed: apt-get install -y --no-install-recommends {' '.join(missing)}")
    done: set[str] = set()
    while todo:
        package = todo.pop()
        if package in done:
            continue
        done.add(package)
        for either in names(depends[package]):
            here = [providers.get(name, name) for name in either if name in depends or name in providers]
            todo += [name if name in depends else providers[name] for name in here[:1]]
    return sorted(done)


def package_files(packages: list[str]) -> Iterator[Path]:
    """What the packages have installed, compiled Python beside its source included, documentation left out."""
    listing = subprocess.run(["dpkg-query", "-L", *packages], check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        path = Path(line)
        if not line.startswith("/") or line.startswith(LEFT_OUT) or not path.parent.is_dir():
            continue
        path = path.parent.resolve() / path.name
        if path.is_symlink() or path.exists():
            yield path
        if path.suffix == ".py":
            yield from path.parent.glob(f"__pycache__/{path.stem}.*.pyc")


def alternative_links(files: set[Path]) -> Iterator[Path]:
    """The links that ``update-alternatives`` keeps for those files, such as /usr/bin/awk."""
    for record in ALTERNATIVES.iterdir() if ALTERNATIVES.is_dir() else ():
        link = Path(record.read_text().splitlines()[1])
        middle = Path("/etc/alternatives") / record.name
        if link.is_symlink() and middle.is_symlink() and middle.resolve() in files:
            yield from (link.parent.resolve() / link.name, middle)


def write_image(out: IO[bytes], files: set[Path]) -> None:
    """The root file system as a tar stream."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for name, mode in EMPTY.items():
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        links = [Path("/", name) for name in MERGED if Path("/", name).is_symlink()]
        skipped = {Path("/", name) for name in (*EMPTY, *MERGED)}
        for path in [*links, *sorted(files - skipped)]:
            tar.add(path, arcname=str(path).lstrip("/"), recursive=False)
        for name in ("passwd", "group"):
            tar.add(f"/usr/share/base-passwd/{name}.master", arcname=f"etc/{name}")


def import_image(client: docker.APIClient, tag: str, files: set[Path]) -> None:
    """Hand the stream to the engine as it is written: a child writes into a pipe."""
    read_end, write_end = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(read_end)
        with os.fdopen(write_end, "wb") as out:
            write_image(out, files)
        os._exit(0)
    os.close(write_end)
    repository, _, version = tag.partition(":")
    changes = [f"LABEL {LABEL}", 'CMD ["/bin/sh"]']
    with os.fdopen(read_end, "rb") as stream:
        client.import_image_from_stream(stream, repository=repository, tag=version, changes=changes)
    if os.waitpid(writer, 0)[1]:
        client.remove_image(tag)
        sys.exit("the files could not be read")


def main() -> None:
    """The command."""
    tag = sys.argv[1] if len(sys.argv) > 1 else TAG
    began = time.monotonic()
    packages = closure(WANTED)
    files = set(package_files(packages))
    files |= set(alternative_links(files))
    with contextlib.closing(docker.from_env(timeout=300).api) as client:
        import_image(client, tag, files)
        megabytes = client.inspect_image(tag)["Size"] / 1e6
    took_s = time.monotonic() - began
    print(f"{tag}: {len(packages)} packages, {len(files)} files, {megabytes:.0f} MB in {took_s:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
