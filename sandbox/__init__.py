"""Where untrusted code runs: one protocol, several back ends."""

from __future__ import annotations

import sys

from xar_agent.errors import CapabilityMissing, ConfigError
from xar_agent.sandbox.protocol import (
    WORKSPACE,
    Bind,
    Capabilities,
    ExecResult,
    Limits,
    Patch,
    Process,
    Sandbox,
    SandboxInfo,
    SandboxSpec,
)

__all__ = [
    "BACKENDS",
    "WORKSPACE",
    "Bind",
    "Capabilities",
    "ExecResult",
    "Limits",
    "Patch",
    "Process",
    "Sandbox",
    "SandboxInfo",
    "SandboxSpec",
    "open_sandbox",
    "probe",
]

BACKENDS = ("auto", "docker", "bubblewrap", "process")


def probe(backend: str) -> SandboxInfo:
    """What a back end can do on this machine, found once per process by trying it; ``auto``: the one it chooses.

    Raises:
        CapabilityMissing: it cannot be used here; the message says why, the hint what to do.
        ConfigError: there is no back end of that name.
    """
    _check(backend)
    if backend == "process":
        from xar_agent.sandbox.process import process_info

        return process_info()
    from xar_agent.sandbox.bubblewrap import bubblewrap_info

    return bubblewrap_info()


def open_sandbox(backend: str, spec: SandboxSpec) -> Sandbox:
    """A sandbox that ``with`` starts. ``auto`` never falls back to ``process``.

    Raises:
        CapabilityMissing: the back end cannot be used here, or cannot do what the spec asks for.
        ConfigError: there is no back end of that name.
    """
    _check(backend)
    if backend == "process":
        from xar_agent.sandbox.process import ProcessSandbox

        return ProcessSandbox(spec)
    from xar_agent.sandbox.bubblewrap import BubblewrapSandbox, bubblewrap_info

    bubblewrap_info()
    return BubblewrapSandbox(spec)


def _check(backend: str) -> None:
    if backend not in BACKENDS:
        raise ConfigError(f"unknown sandbox {backend!r}; known: {', '.join(BACKENDS)}")
    if backend == "docker":
        raise CapabilityMissing("the Docker back end is not built yet", "use --sandbox bubblewrap")
    if not sys.platform.startswith("linux"):
        hint = "use a Linux machine, or a Linux virtual machine (WSL 2, Lima)"
        raise CapabilityMissing(f"sandboxes need Linux; this is {sys.platform}", hint)
