"""System calls that the supervisor needs, from modules that load at once: ctypes, signal and typing take 25 ms more."""

from __future__ import annotations

import _ctypes
import _signal  # type: ignore[import-not-found]  # the built-in half of signal: no enum to load
import os
import stat

SIGNALS = _signal
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KEYCTL = {"x86_64": 250, "i686": 288, "ppc64le": 271, "s390x": 280}
"""Number of the system call; 219 on the machines that came later."""
KEYCTL_JOIN_SESSION_KEYRING = 1


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = _Long


_prctl = _Function(_ctypes.dlsym(_ctypes.dlopen("", 0), "prctl"))
_syscall = _Function(_ctypes.dlsym(_ctypes.dlopen("", 0), "syscall"))


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; the kernels that we run on have both options."""
    _prctl(_Long(option), _Long(value), _Long(0), _Long(0), _Long(0))


def leave_key_rings() -> None:
    """Start an empty session key ring: the user's own would follow a command through every namespace."""
    _syscall(_Long(KEYCTL.get(os.uname().machine, 219)), _Long(KEYCTL_JOIN_SESSION_KEYRING), _Long(0))


def read_small(path: str) -> bytes:
    """The first 4 KiB of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def write_small(path: str, content: bytes) -> None:
    """Write to a file that is there."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def send(pid: int, number: int) -> None:
    """Send a signal; gone, or under another user's id: what is left is counted later."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def give(fd: int, owner: int) -> None:
    """Give a pipe or a file in memory to another user; anything else stays as it is."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or os.fstat(fd).st_nlink == 0:
        os.fchown(fd, owner, owner)
