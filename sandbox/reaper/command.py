"""The child's side: from a forked supervisor to the command."""

from __future__ import annotations

import fcntl
import os
import resource

from .system import PR_SET_PDEATHSIG, SIGNALS, leave_key_rings, prctl, write_small  # noqa: TID251

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import
    from typing import Any

COUNT_FD = 3
"""Where the start script inside bubblewrap says that it runs, then how many processes it left."""
ARGUMENTS_FD = 9
"""Where bubblewrap reads its arguments, so that no command line shows them."""


def become_command(job: dict[str, Any], output: int, count: int) -> None:
    """In the child: limits, cgroup, streams, then the command. Never returns."""
    try:
        prctl(PR_SET_PDEATHSIG, SIGNALS.SIGKILL)
        os.setsid()
        leave_key_rings()
        for number in range(1, 32):
            if number not in (SIGNALS.SIGKILL, SIGNALS.SIGSTOP):
                SIGNALS.signal(number, SIGNALS.SIG_DFL)
        SIGNALS.pthread_sigmask(SIGNALS.SIG_SETMASK, [])
        for path in job["cgroup"].get("join", ()):
            write_small(path, b"0")
        write_small("/proc/self/oom_score_adj", b"500")
        for name, limit in job["rlimits"].items():
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(number, (limit, limit))
        os.umask(0o022)
        os.dup2(output, 2)
        if job["merge"]:
            os.dup2(output, 1)
        arguments = os.memfd_create("arguments")
        os.write(arguments, b"".join(os.fsencode(word) + b"\0" for word in job["arguments"]))
        os.lseek(arguments, 0, os.SEEK_SET)
        above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (count, arguments)]
        if job["arguments"]:
            os.dup2(above[0], COUNT_FD)
            os.dup2(above[1], ARGUMENTS_FD)
        change_folder_and_exec(job["argv"], job["cwd"], job["env"])
    except OSError as error:
        os.write(2, f"cannot start the command: {error}\n".encode())
    finally:
        os._exit(125)


def change_folder_and_exec(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    try:
        os.chdir(cwd)
    except OSError:
        os.write(2, f"cannot enter {cwd}: no such folder\n".encode())
        os._exit(126)
    try:
        os.execvpe(argv[0], argv, env)
    except FileNotFoundError:
        os.write(2, f"{argv[0]}: command not found\n".encode())
        os._exit(127)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(126)
