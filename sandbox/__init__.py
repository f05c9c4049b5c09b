"""Where untrusted code runs: one protocol, several back ends."""

from __future__ import annotations

import sys
from dataclasses import replace

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
    "NOT_DOCKER",
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
NOT_DOCKER = "; not Docker: "
"""What ``probe`` puts between what it chose and why it was not Docker."""


def probe(backend: str, *, image: str | None = None, gpus: bool = False) -> SandboxInfo:
    """What a back end can do on this machine, found once per process by trying it; ``auto``: the one it chooses.

    Args:
        backend: its name; ``auto`` is Docker where its engine answers and has the image, else bubblewrap.
        image: container image, where the back end has images; None: its default one.
        gpus: whether devices will be asked for, which decides the default image.

    Raises:
        CapabilityMissing: it cannot be used here; the message says why, the hint what to do.
        ConfigError: there is no back end of that name.
    """
    _check(backend)
    if backend == "process":
        from xar_agent.sandbox.process import process_info

        return process_info()
    if backend == "docker":
        from xar_agent.sandbox.docker import docker_info

        return docker_info(image, gpus=gpus)
    from xar_agent.sandbox.bubblewrap import bubblewrap_info

    if backend == "bubblewrap":
        return bubblewrap_info()
    try:
        return probe("docker", image=image, gpus=gpus)
    except CapabilityMissing as without_docker:
        try:
            info = bubblewrap_info()
        except CapabilityMissing as error:
            raise CapabilityMissing(f"{error.message}; {without_docker.message}", error.hint) from error
        return replace(info, detail=f"{info.detail}{NOT_DOCKER}{without_docker.message}")


def open_sandbox(backend: str, spec: SandboxSpec) -> Sandbox:
    """A sandbox that ``with`` starts. ``auto`` never falls back to ``process``.

    Raises:
        CapabilityMissing: the back end cannot be used here, or cannot do what the spec asks for.
        ConfigError: there is no back end of that name.
    """
    name = backend if backend == "process" else probe(backend, image=spec.image, gpus=bool(spec.gpus)).backend
    if name == "process":
        from xar_agent.sandbox.process import ProcessSandbox

        return ProcessSandbox(spec)
    if name == "docker":
        from xar_agent.sandbox.docker import DockerSandbox

        return DockerSandbox(spec)
    from xar_agent.sandbox.bubblewrap import BubblewrapSandbox

    return BubblewrapSandbox(spec)


def _check(backend: str) -> None:
    if backend not in BACKENDS:
        raise ConfigError(f"unknown sandbox {backend!r}; known: {', '.join(BACKENDS)}")
    if not sys.platform.startswith("linux"):
        hint = "use a Linux machine, or a Linux virtual machine (WSL 2, Lima)"
        raise CapabilityMissing(f"sandboxes need Linux; this is {sys.platform}", hint)
