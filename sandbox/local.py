"""Commands that run on this machine, each under a supervisor, and what bounds them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from xar_agent.sandbox import cgroup
from xar_agent.sandbox.host_side import HostSandbox, Order
from xar_agent.sandbox.launch import Launch
from xar_agent.sandbox.protocol import Limits
from xar_agent.sandbox.supervised import SupervisedProcess


class LocalSandbox(HostSandbox):
    """A sandbox whose commands are started from this machine, each under a supervisor of its own."""

    @abstractmethod
    def launch(self, argv: tuple[str, ...], cwd: str, env: Mapping[str, str]) -> Launch:
        """How the supervisor starts a command."""

    def begin(self, order: Order) -> SupervisedProcess:
        """Start a command under its supervisor."""
        assert self.support
        launch = self.launch(order.words, order.cwd, order.env)
        return SupervisedProcess(
            launch,
            timeout_s=order.timeout_s,
            cpu_s=order.cpu_s,
            keep_bytes=order.keep_bytes,
            log_path=order.log_path,
            stdin=order.stdin,
        )


def rlimits(limits: Limits) -> dict[str, int]:
    """Limits that the kernel puts on each process, by the names that ``resource`` has for them."""
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": None if limits.file_mib is None else limits.file_mib << 20,
        "RLIMIT_NOFILE": limits.open_files,
    }
    return {name: limit for name, limit in wanted.items() if limit is not None}


def memory_bound(limits: Limits) -> tuple[Mapping[str, object], int | None]:
    """A control group where one can be made, else bytes for the watchdog."""
    group = cgroup.make(limits)
    return group, None if group or limits.memory_mib is None else limits.memory_mib << 20


def memory_means() -> str:
    """How memory is bounded here, in the words of ``Capabilities.mem_limit``."""
    return "cgroup" if cgroup.version() else "watchdog"


def process_means() -> str:
    """How the number of processes is bounded here, in the words of ``Capabilities.process_limit``."""
    return "cgroup" if cgroup.version() else "rlimit"


def what_is_sampled() -> str:
    """What a person should know where no control group counts for us; empty where one does."""
    if cgroup.version():
        return ""
    return (
        "memory and CPU are sampled every 0.1 s: CPU of children that nobody waits for may be under-counted, "
        "and memory files that are mapped and then closed are not seen"
    )
