"""Supervise one command.

Spoken to through file descriptors given as arguments: CONTROL STATUS METER LOG (LOG may be -1). The job comes over
CONTROL as a length line and a marshalled dict; when CONTROL closes, or our parent dies, every descendant is killed.
CONTROL also takes ``k`` (cancel) and ``t`` (out of time). The result goes to STATUS: one line of JSON, then the kept
head and tail of the output. METER is a file that always holds the CPU seconds so far.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import select
import sys
import time

from .command import become_command  # noqa: TID251
from .disk import Disk  # noqa: TID251
from .measure import Meter, descendants  # noqa: TID251
from .nameless import Nameless, private_bytes, proportional_bytes  # noqa: TID251
from .output import CHUNK, Output  # noqa: TID251
from .system import PR_SET_CHILD_SUBREAPER, SIGNALS, give, prctl, send  # noqa: TID251

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from typing import Any

TICK_S = 0.1
"""How often CPU and memory are looked at; rarer where one look costs more than 4 % of that."""
GIVE_UP_S = 5.0
"""Processes that outlive SIGKILL for so long are stuck in the kernel: report them."""


class Supervisor:
    """The loop: streams, deadline, limits; then the end of every process."""

    def __init__(self, job: dict[str, Any], control: int, meter_fd: int, log: int) -> None:
        self.job, self.control, self.meter_fd = job, control, meter_fd
        self.meter, self.disk = Meter(job), Disk(job["disk_roots"])
        self.nameless = Nameless(job["disk_roots"], own_shm=bool(job["arguments"]))
        self.parent = os.getppid()
        self.stopped_by = ""
        self.status: int | None = None
        self.main = 0
        self.wake, wake_write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_write, False)
        SIGNALS.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        SIGNALS.signal(SIGNALS.SIGCHLD, lambda *_: None)
        for number in (SIGNALS.SIGTERM, SIGNALS.SIGINT, SIGNALS.SIGHUP):
            SIGNALS.signal(number, lambda *_: self.stop("cancel"))
        output_read, self.output_write = os.pipe()
        fcntl.fcntl(output_read, fcntl.F_SETPIPE_SZ, CHUNK)
        os.set_blocking(output_read, False)
        self.output = Output(output_read, log, job)
        self.count, self.count_write = os.pipe()
        if job["owner"] is not None:
            for fd in (0, 1, self.output_write):  # or /dev/stdout could not be opened inside
                give(fd, job["owner"])

    def stop(self, why: str) -> None:
        self.stopped_by = self.stopped_by or why

    def start(self) -> None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.begun = time.monotonic()
        self.main = os.fork()
        if self.main == 0:
            become_command(self.job, self.output_write, self.count_write)
        os.close(self.output_write)
        os.close(self.count_write)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(nothing, fd)

    def watch(self) -> None:
        """Until the command has ended or must end."""
        poller = select.poll()
        for fd in (self.control, self.wake, self.output.fd):
            poller.register(fd, select.POLLIN)
        end, tick = self.begun + self.job["wall_s"], self.begun + TICK_S
        while not self.stopped_by and self.status is None:
            now = time.monotonic()
            if now >= end:
                self.stop("wall")
            elif now >= tick:
                tick = self.look(now)
            ready = [fd for fd, _ in poller.poll(max(0.0, min(end, tick) - now) * 1000)]
            if self.output.fd in ready and not self.output.read():
                poller.unregister(self.output.fd)
            if self.control in ready:
                self.stop({b"t": "wall"}.get(os.read(self.control, 1), "cancel"))
            if self.wake in ready:
                os.read(self.wake, 4096)
            self.reap()

    def look(self, now: float) -> float:
        """Compare use with the limits; the time of the next look."""
        job = self.job
        pids = list(self.meter.look())
        os.pwrite(self.meter_fd, b"%-24.6f" % self.meter.cpu_s, 0)
        self.disk.step(now)
        self.nameless.step(pids, now)
        if os.getppid() != self.parent:
            self.stop("cancel")
        if self.meter.oom_kills() or (job["rss_bytes"] is not None and self.is_over_memory(pids, job["rss_bytes"])):
            self.stop("memory")
        if job["cpu_s"] is not None and self.meter.cpu_s >= job["cpu_s"]:
            self.stop("cpu")
        if job["disk_bytes"] is not None and self.disk.is_over(
            job["disk_bytes"], self.nameless.disk, sees_nameless=self.nameless.sees_all
        ):
            self.stop("disk")
        done = time.monotonic()
        return done + max(TICK_S, 25 * (done - now))

    def is_over_memory(self, pids: list[int], limit: int) -> bool:
        """By the resident sets, or by what is private in them and the files in memory (mapped ones are in both)."""
        held = self.nameless.memory
        rss = self.meter.rss
        if rss > limit and proportional_bytes(pids) > limit:  # forks share pages, and each has them in its set
            return True
        return held > 0 and rss + held > limit and private_bytes(pids) + held > limit

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.main:
                self.status = os.waitstatus_to_exitcode(status)

    def kill_all(self) -> tuple[int, int]:
        """End every descendant; how many there were, and how many could not be ended."""
        alive = [pid for pid, stat in self.meter.look().items() if not stat.dead]
        found = max(len(alive) - (self.job["own_processes"] if self.status is None else 0), 0)
        give_up = time.monotonic() + GIVE_UP_S
        while alive and time.monotonic() < give_up:
            for number in (SIGNALS.SIGSTOP, SIGNALS.SIGKILL):  # stopped first: a fork bomb cannot outrun the second
                for pid in alive:
                    send(pid, number)
            self.reap()
            time.sleep(0.001)
            alive = [pid for pid, stat in descendants().items() if not stat.dead]
        self.reap()
        return found, len(alive)

    def inside(self) -> tuple[bool, int]:
        """Whether the command was started inside bubblewrap, and the processes that it left there."""
        os.set_blocking(self.count, False)
        try:
            lines = os.read(self.count, 4096).split()
        except BlockingIOError:
            lines = []
        left = int(lines[1]) - 2 if len(lines) > 1 and lines[1].isdigit() else 0
        return lines[:1] == [b"s"], max(left, 0)

    def report(self, status_fd: int) -> None:
        """End everything, then say what happened."""
        ended = self.status is not None
        found, stuck = self.kill_all()
        self.output.drain()
        took_s = time.monotonic() - self.begun
        started, left = self.inside()
        if self.job["arguments"] and ended:
            found = left
        oom = self.meter.oom_kills() > 0 or self.stopped_by == "memory"
        if oom:
            self.stop("memory")
        code = self.status if self.status is not None else -SIGNALS.SIGKILL
        head, tail = self.output.parts()
        line = (
            f'{{"code": {code if code >= 0 else 128 - code:d}, "stopped_by": "{self.stopped_by}", "oom": {int(oom)}, '
            f'"cpu_s": {max(self.meter.cpu_s, self.meter.reaped_s(), self.meter.cgroup_cpu_s()):.6f}, '
            f'"took_s": {took_s:.6f}, "n_bytes": {self.output.n_bytes}, "found": {found}, "stuck": {stuck}, '
            f'"lost": {int(bool(self.job["arguments"]) and ended and not started)}, '
            f'"head": {len(head)}, "tail": {len(tail)}}}\n'
        )
        data = line.encode() + head + tail
        while data:
            data = data[os.write(status_fd, data) :]
        os.close(status_fd)
        for folder in self.job["cgroup"].get("remove", ()):
            remove_cgroup(folder)


def remove_cgroup(folder: str) -> None:
    for _ in range(50):
        try:
            os.rmdir(folder)  # noqa: PTH106 - Path is slow to import
        except OSError:
            time.sleep(0.01)  # the kernel lets go of the dead a moment later
        else:
            return


def read_job(control: int) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(control, 1) or sys.exit(1)
    data = bytearray()
    while len(data) < int(line):
        data += os.read(control, int(line) - len(data)) or sys.exit(1)
    job: dict[str, Any] = marshal.loads(data)
    return job


def main() -> None:
    control, status, meter, log = map(int, sys.argv[1:])
    for fd in (control, status, meter, log):
        if fd >= 0:
            os.set_inheritable(fd, False)
    supervisor = Supervisor(read_job(control), control, meter, log)
    supervisor.start()
    supervisor.watch()
    supervisor.report(status)
    os._exit(0)  # nothing left to tidy up: the caller waits for our end
