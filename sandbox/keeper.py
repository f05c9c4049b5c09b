"""Keeper of a container: a stand-alone program, its first one, that lives as long as the driver holds its input.

It runs as root without capabilities, so the commands, which run under another id, cannot signal, trace or read it. When
its input closes (the driver is dead) or the deadline of the commands has passed unheeded (the driver is stopped) it
ends, and with it the container: the kernel then kills whatever runs inside.

Each line of input is a request, answered by one line of JSON: ``c`` CPU seconds and out-of-memory kills; ``p`` the
processes too, and what is left in memory; ``d SECONDS`` ends everything after so many seconds, ``d`` calls it off.
"""

from __future__ import annotations

import json
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from typing import Any, NoReturn

GROUPS = "/sys/fs/cgroup"
GREETING_S = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


def text(path: str) -> str:
    """The first 64 KiB of a file; empty when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(fd, 65536).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def figure(content: str, name: str) -> int:
    """The number behind a name, in the way of cpu.stat and memory.events."""
    for line in content.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    return 0


def use() -> dict[str, Any]:
    """CPU seconds of everything that ever ran here, and how often the kernel killed for want of memory."""
    usage = text(GROUPS + "/cpuacct/cpuacct.usage") or text(GROUPS + "/cpu,cpuacct/cpuacct.usage")
    if usage:
        return {
            "cpu_s": int(usage) / 1e9,
            "oom": figure(text(GROUPS + "/memory/memory.oom_control"), "oom_kill"),
            "counted": True,
        }
    stat = text(GROUPS + "/cpu.stat")
    return {
        "cpu_s": figure(stat, "usage_usec") / 1e6,
        "oom": figure(text(GROUPS + "/memory.events"), "oom_kill"),
        "counted": bool(stat),
    }


def processes() -> list[list[Any]]:
    """Pid, parent, user and mark of every live process but ours; the mark is fourth in a command's first shell."""
    found = []
    own = {1, os.getpid()}
    for name in os.listdir("/proc"):  # noqa: PTH208 - Path is slow to import
        if not name.isdigit() or int(name) in own:
            continue
        stat = text("/proc/" + name + "/stat").rpartition(")")[2].split()
        if not stat or stat[0] in "ZX":
            continue
        mark = ""
        if stat[1] == "0":  # its parent is outside: it was started by the engine
            words = text("/proc/" + name + "/cmdline").split("\0")
            mark = words[3] if len(words) > 3 else "?"
        # Not the owner of its folder in /proc: that becomes root for a process that made itself undumpable.
        user = [line.split()[1] for line in text("/proc/" + name + "/status").splitlines() if line.startswith("Uid:")]
        if user:
            found.append([int(name), int(stat[1]), int(user[0]), mark])
    return found


def left_in_memory() -> bool:
    """Whether something is kept in memory by no process: files in /dev/shm, System V segments, message queues."""
    for folder in ("/dev/shm", "/dev/mqueue"):
        try:
            if os.listdir(folder):  # noqa: PTH208
                return True
        except OSError:
            continue
    kinds = ("shm", "msg", "sem")
    return any(len(text("/proc/sysvipc/" + kind).splitlines()) > 1 for kind in kinds)


def answer(words: list[str], state: dict[str, float | None]) -> dict[str, Any]:
    """What a request asks for; ``state`` holds the deadline."""
    if words[0] == "d":
        state["deadline"] = time.monotonic() + float(words[1]) if len(words) > 1 else None
        return {}
    reply = use()
    if words[0] == "p":
        reply["processes"] = processes()
        reply["left"] = left_in_memory()
    if words[0] == "hello":
        known = os.stat("/workspace")  # noqa: PTH116
        reply["workspace"] = [known.st_ino, known.st_uid]
    return reply


def main() -> NoReturn:
    state: dict[str, float | None] = {"deadline": time.monotonic() + GREETING_S}
    received = b""
    while True:
        deadline = state["deadline"]
        wait_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        if not select.select([0], [], [], wait_s)[0]:
            os._exit(3)
        data = os.read(0, 4096)
        if not data:
            os._exit(0)
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            words = line.decode().split()
            if words[0] == "hello":
                state["deadline"] = None
            os.write(1, json.dumps(answer(words, state)).encode() + b"\n")


if __name__ == "__main__":
    main()
