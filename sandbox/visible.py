"""What of this machine a bubblewrap sandbox sees: a list, never the root folder."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path, PurePosixPath

SHM_BYTES = 512 << 20
"""Size of /dev/shm; with several GPUs each of them adds as much, since their processes talk through it."""
TOP_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC_FILES = ("ld.so.cache", "alternatives", "localtime", "magic", "mime.types")
ETC_NETWORK = ("resolv.conf", "ssl", "ca-certificates", "services", "protocols", "gai.conf")
MADE_FILES = {
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def write_accounts(support: Path, uid: int, gid: int) -> None:
    """Write the few files of /etc that name users and hosts."""
    folder = support / "etc"
    folder.mkdir(mode=0o755)
    known = {0, 65534}
    users = "root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    groups = "root:x:0:\nnogroup:x:65534:\n"
    users += f"sandbox:x:{uid}:{gid}::/tmp:/bin/sh\n" if uid not in known else ""
    groups += f"sandbox:x:{gid}:\n" if gid not in known else ""
    for name, text in {"passwd": users, "group": groups, **MADE_FILES}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)


def shm_bytes(n_gpus: int) -> int:
    """Size of /dev/shm for so many GPUs."""
    return SHM_BYTES * max(1, n_gpus)


def pci_tree() -> list[str]:
    """Arguments that show how PCI devices are connected: NCCL plans by it."""
    words: list[str] = []
    for path in ("/sys/bus/pci", "/sys/class/pci_bus", *sorted(map(str, Path("/sys/devices").glob("pci*")))):
        words += [*parents(path), "--ro-bind-try", path, path]
    return words


def system(support: Path, *, network: bool, n_gpus: int = 0) -> list[str]:
    """Arguments for the read-only system, /proc, /dev and the made-up /etc."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in TOP_FOLDERS:
        folder = Path("/", name)
        if folder.is_symlink():
            words += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            words += ["--ro-bind", str(folder), str(folder)]
    words += ["--perms", "0755", "--dir", "/etc"]
    for name in (*ETC_FILES, *(ETC_NETWORK if network else ())):
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ("passwd", "group", *MADE_FILES):
        words += ["--ro-bind", str(support / "etc" / name), f"/etc/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    words += ["--perms", "1777", "--size", str(shm_bytes(n_gpus)), "--tmpfs", "/dev/shm"]
    return [*words, *parents("/sys/devices/system/cpu"), "--ro-bind-try", *["/sys/devices/system/cpu"] * 2]


def interpreter() -> list[str]:
    """Arguments that show the running Python at its own path: its environment and its base, nothing around them."""
    words: list[str] = []
    for path in _interpreter_paths():
        words += [*parents(path), "--ro-bind", path, path]
    return words


@cache
def _interpreter_paths() -> tuple[str, ...]:
    paths: list[str] = []
    for prefix in (sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix):
        for path in (prefix, str(Path(prefix).resolve())):
            if path != "/" and not _covered(path, paths):
                paths.append(path)
    executable = Path(sys.executable)
    while executable.is_symlink():  # each link on the way must be there too
        executable = executable.parent / executable.readlink()
        normal = str(executable.parent.resolve() / executable.name)
        for path in (str(executable), normal):
            if ".." not in PurePosixPath(path).parts and not _covered(path, paths):
                paths.append(path)
    return tuple(sorted(paths))


def unreadable_by_others() -> str:
    """The first part of the running Python that other users may not read; empty when they can. Slow: for a message."""
    for shown in _interpreter_paths():
        for path in (Path(shown), *Path(shown).rglob("*")):
            needed = 0o005 if path.is_dir() else 0o004
            if not path.is_symlink() and path.stat().st_mode & needed != needed:
                return shown
    return ""


def _covered(path: str, shown: list[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(place) for place in ("/usr", "/bin", "/lib", *shown))


def parents(path: str) -> list[str]:
    """Arguments that make the folders above ``path``, readable by every user inside."""
    words: list[str] = []
    for parent in reversed(PurePosixPath(path).parents):
        if str(parent) not in ("/", "/tmp", "/usr", "/etc", "/dev"):
            words += ["--perms", "0755", "--dir", str(parent)]
    return words
