"""Run a command that ends with whoever holds the other end of our stdin, and all that it started with it.

Stand-alone, started in a session of its own: closing stdin, or dying, is all that the starter has to do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def end_group(leader: int) -> None:
    """Kill a process group; one that has ended is fine."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def end_with_stdin(leader: int) -> None:
    """Wait until stdin closes, then kill the group and this process."""
    while os.read(0, 1024):
        pass
    end_group(leader)
    os._exit(1)


def main() -> None:
    """Run the arguments as a command; end as it ends, its signal included."""
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)
    threading.Thread(target=end_with_stdin, args=(command.pid,), daemon=True).start()
    os.waitid(os.P_PID, command.pid, os.WEXITED | os.WNOWAIT)  # not reaped yet: the group's number is still its own
    end_group(command.pid)
    code = command.wait()
    if code < 0:
        with suppress(OSError):  # SIGKILL needs no default action
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
