"""No isolation: a plain process with a cleaned environment and the same supervisor. Only by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from xar_agent.errors import CapabilityMissing
from xar_agent.sandbox.launch import Launch
from xar_agent.sandbox.local import LocalSandbox, memory_bound, memory_means, process_means, rlimits, what_is_sampled
from xar_agent.sandbox.protocol import WORKSPACE, Capabilities, SandboxInfo, SandboxSpec

NO_ISOLATION = "no isolation: commands run as you, with your files, your network and your other processes in reach"


def process_info() -> SandboxInfo:
    """What it does, and what it does not."""
    return SandboxInfo(
        backend="process",
        capabilities=Capabilities(
            gpu=False,
            network_off=False,
            pid_ns=False,
            mem_limit=memory_means(),
            process_limit=process_means(),
            readonly=False,
            disk_limit="watchdog",
            secrets_hidden=False,
        ),
        python=sys.executable,
        detail="; ".join(filter(None, (NO_ISOLATION, what_is_sampled()))),
    )


class ProcessSandbox(LocalSandbox):
    """Runs commands as the user, in the workspace; limits and clean-up hold, secrets and network are open."""

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__(spec)
        if spec.gpus:
            raise CapabilityMissing("the process back end cannot hide the devices of other leases", "leave out gpus")
        self.info = process_info()

    def prepare(self, support: Path) -> None:
        """Nothing besides the private /tmp."""

    def path_of(self, target: str) -> str:
        """The host's path of a path under ``WORKSPACE``, /tmp or a bind's target."""
        places = [(bind.target, bind.source) for bind in self.spec.binds]
        places += [(WORKSPACE, self.spec.workspace), ("/tmp", self.support / "tmp")]
        for inside, outside in sorted(places, key=lambda place: len(place[0]), reverse=True):
            if target == inside or target.startswith(inside.rstrip("/") + "/"):
                return str(outside.absolute()) + target[len(inside.rstrip("/")) :]
        return target

    def environment(self) -> dict[str, str]:
        """The spec's own, and where home and temporary files are."""
        tmp = self.path_of("/tmp")
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": tmp,
            "TMPDIR": tmp,
            "LANG": "C.UTF-8",
            **self.spec.environment,
        }

    def launch(self, argv: tuple[str, ...], cwd: str, env: Mapping[str, str]) -> Launch:
        """The command itself; its processes are counted against the user's own where the kernel knows no better."""
        limits = self.spec.limits
        group, rss_bytes = memory_bound(limits)
        bounds = rlimits(limits)
        if limits.processes is not None and os.geteuid() != 0:
            bounds["RLIMIT_NPROC"] = limits.processes + _own_tasks()
        return Launch(
            argv=argv,
            cwd=str(Path(self.path_of(WORKSPACE), self.path_of(cwd))),
            env=env,
            rlimits=bounds,
            cgroup=group,
            rss_bytes=rss_bytes,
            disk_bytes=None if limits.disk_mib is None else limits.disk_mib << 20,
            disk_roots=(self.path_of(WORKSPACE), self.path_of("/tmp")),
        )


def _own_tasks() -> int:
    """Threads of this user on the machine: RLIMIT_NPROC counts them all."""
    count = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if folder.stat().st_uid == os.geteuid():
                    count += len(list((folder / "task").iterdir()))
            except OSError:
                continue  # it ended while we looked
    return count
