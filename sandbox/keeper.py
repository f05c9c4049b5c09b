"""Keeper of a container: a stand-alone program, its first one, that lives as long as the driver holds its input.

It runs as root without capabilities, so the commands, which run under another id, cannot signal, trace or read it (nor
can it signal them). When its input closes or its connection to the driver breaks (the driver is dead), or the deadline
of the commands has passed unheeded (the driver is stopped), it ends, and with it the container: the kernel then kills
whatever runs inside. The connection is the kernel's: it breaks also where an engine does not notice that we are dead.

Each line of input is a request in JSON, answered by a line with its number ``n``, CPU seconds and out-of-memory kills.
``after_s`` ends everything after so many seconds, null calls it off; ``look`` lists what belongs to no other command.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from typing import Any, NoReturn

GROUPS = "/sys/fs/cgroup"
GREETING_S = 30.0
LONGEST_S = 1e8
LIFELINE = "/run/xar-driver.sock"
"""Where the driver listens as long as it lives. It never answers: the kernel ends what it has not accepted with it."""


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


def processes(user: int) -> dict[int, int]:
    """Each live process of a user, and its parent."""
    found = {}
    own = {1, os.getpid()}
    for name in os.listdir("/proc"):  # noqa: PTH208 - Path is slow to import
        if not name.isdigit() or int(name) in own:
            continue
        stat = text("/proc/" + name + "/stat").rpartition(")")[2].split()
        # A zombie with threads is no corpse: its first thread has ended, the others run.
        if not stat or stat[0] == "X" or (stat[0] == "Z" and int(stat[17]) < 2):
            continue
        # Not the owner of its folder in /proc: that becomes root for a process that made itself undumpable.
        lines = text("/proc/" + name + "/status").splitlines()
        if f"{user}" in [line.split()[1] for line in lines if line.startswith("Uid:")]:
            found[int(name)] = int(stat[1])
    return found


def below(roots: set[int], parents: dict[int, int]) -> set[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        found.add(pid)
        todo += children.get(pid, [])
    return found


def unclaimed(request: dict[str, Any]) -> set[int]:
    """Processes that belong to no other command.

    The engine's children (their parent is outside: 0) are the first shells of commands. ``others`` are those of other
    commands; while one is ``starting``, a shell that is not known yet is its.
    """
    parents = processes(request["user"])
    claimed = set(request["others"])
    if request["starting"]:
        claimed |= {pid for pid, parent in parents.items() if parent == 0 and pid != request["own"]}
    return set(parents) - below(claimed, parents)


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


def answer(request: dict[str, Any], state: dict[str, float | None]) -> dict[str, Any]:
    """What a request asks for; ``state`` holds the deadline."""
    if "after_s" in request:
        after_s = request["after_s"]
        state["deadline"] = None if after_s is None else time.monotonic() + after_s
    reply = {"n": request["n"], **use()}
    if request["do"] == "look":
        reply["pids"] = list(unclaimed(request))
        reply["left"] = left_in_memory()
    if request["do"] == "hello":
        reply["workspace"] = os.stat("/workspace").st_ino  # noqa: PTH116
    return reply


def connect() -> socket.socket | None:
    """A connection that lasts as long as the driver; None where others have taken all places.

    Raises:
        ConnectionRefusedError: it is dead already.
    """
    line = socket.socket(socket.AF_UNIX)
    line.setblocking(False)
    try:
        line.connect(LIFELINE)
    except BlockingIOError:
        return None
    return line


def main() -> NoReturn:
    state: dict[str, float | None] = {"deadline": time.monotonic() + GREETING_S}
    received = b""
    lifeline = connect()
    watched: list[Any] = [0] if lifeline is None else [0, lifeline]
    while True:
        deadline = state["deadline"]
        wait_s = None if deadline is None else min(max(deadline - time.monotonic(), 0.0), LONGEST_S)
        ready = select.select(watched, [], [], wait_s)[0]
        if not ready:
            os._exit(3)
        if lifeline in ready:
            os._exit(0)
        data = os.read(0, 65536)
        if not data:
            os._exit(0)
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            os.write(1, json.dumps(answer(json.loads(line), state)).encode() + b"\n")


if __name__ == "__main__":
    main()
