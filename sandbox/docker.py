"""Sandboxes in containers of a Docker engine on this machine.

One container per sandbox, with no network, a read-only root, no capabilities and no new privileges. Its first program
is the keeper (``keeper.py``), as root; commands are started by the engine as an ordinary user: uid 1000 when we are
root, who gives the workspace to it, else our own uid.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.errors import CapabilityMissing, SandboxError, SandboxLost, SandboxStartError
from xar_agent.sandbox import engine, files, visible
from xar_agent.sandbox.container import Container
from xar_agent.sandbox.docker_process import DockerProcess
from xar_agent.sandbox.held import HeldFolder
from xar_agent.sandbox.host_side import HostSandbox, Order
from xar_agent.sandbox.images import default_image, how_to_build
from xar_agent.sandbox.keeper import LIFELINE
from xar_agent.sandbox.launch import refusal
from xar_agent.sandbox.owners import drops_to_other_uid, make_reachable
from xar_agent.sandbox.protocol import WORKSPACE, Bind, Capabilities, SandboxInfo, SandboxSpec

if TYPE_CHECKING:
    from docker import APIClient

AGENT_UID = 1000
DRIVER_SOCKET = "driver.sock"
PLACES = 4096
"""One for each time that the container is begun again: those of dead keepers stay taken."""
IMAGE_VARIABLES = ("PATH", "LD_LIBRARY_PATH")
"""What commands keep of the image's environment."""
RESERVED_PROCESSES = 8
"""The keeper, the engine's init, a command's first shell, and what the engine needs to start it."""
NO_TEXT = "an argument is not UTF-8, and the engine takes nothing else"
RUNTIME = (
    "import sys; from importlib import metadata; "
    "torch = [d.version for d in metadata.distributions() if d.metadata['Name'] == 'torch']; "
    "print('Python ' + sys.version.split()[0] + (', torch ' + torch[0] if torch else ', no torch')); "
    "open('probe', 'a').write('inside')"
)


def docker_info(image: str | None = None, *, gpus: bool = False) -> SandboxInfo:
    """What the engine can do here, found once for an image by running its Python in a container.

    Raises:
        CapabilityMissing: there is no engine, no such image, or it does not see our files; says what to do.
    """
    return _tried(image or default_image(gpus=gpus), gpus, os.environ.get("DOCKER_HOST"))


@cache
def _tried(name: str, gpus: bool, host: str | None) -> SandboxInfo:
    with HeldFolder("probe") as folder:
        workspace = folder / "workspace"
        workspace.mkdir()
        (workspace / "probe").write_text("outside ")
        try:
            probed = DockerSandbox(SandboxSpec(workspace=workspace, image=name, name="probe"))
            probed.sweeps = False
            with probed as sandbox:
                result = sandbox.exec(["python3", "-c", RUNTIME], timeout_s=60)
                counted, detail = sandbox.is_counted(), sandbox.describe()
        except SandboxError as error:
            raise CapabilityMissing(f"Docker cannot be used here: {error.message}", error.hint) from error
        seen = (workspace / "probe").read_text()
    if result.exit_code != 0 or seen != "outside inside":
        said = result.output.strip()[-300:] or "what a command wrote did not arrive"
        hint = "the engine must run on this machine, as root, without user namespaces; or use --sandbox bubblewrap"
        raise CapabilityMissing(f"the image {name} cannot be used here: {said}", hint)
    if not counted:
        raise CapabilityMissing("the engine's containers do not show their CPU time", "use --sandbox bubblewrap")
    return _info(name, detail=detail, runtime=result.output.strip(), gpu=gpus)


def _info(image: str, *, detail: str = "", runtime: str = "", gpu: bool = False, network: bool = False) -> SandboxInfo:
    return SandboxInfo(
        backend="docker",
        capabilities=Capabilities(
            gpu=gpu,
            network_off=not network,
            pid_ns=True,
            mem_limit="cgroup",
            process_limit="cgroup",
            readonly=True,
            disk_limit="watchdog",
            secrets_hidden=True,
        ),
        python="python3",
        detail=detail,
        image=image,
        runtime=runtime,
    )


class DockerSandbox(HostSandbox):
    """A container over the workspace; /tmp is a folder of the host too, so that both outlive the container."""

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__(spec)
        self.image = spec.image or default_image(gpus=bool(spec.gpus))
        self.info = _info(self.image, gpu=bool(spec.gpus), network=spec.network)
        self._image_environment: dict[str, str] = {}
        self._container: Container | None = None
        self._client: APIClient | None = None

    def prepare(self, support: Path) -> None:
        """Give folders to the inner user, sweep, then create and start the container.

        Raises:
            CapabilityMissing: there is no engine, or no such image.
            SandboxStartError: the engine refuses.
        """
        uid, gid = os.geteuid(), os.getegid()
        if drops_to_other_uid():
            self.owner = uid = gid = AGENT_UID
            os.chown(support / "tmp", uid, gid)
            if self.spec.workspace_writable:
                files.own_tree(self.spec.workspace, uid)
        shown = () if self.spec.workspace_writable else (Bind(self.spec.workspace, WORKSPACE),)
        for bind in (*shown, *self.spec.binds):
            make_reachable(bind, self.spec.workspace, self.owner)
        visible.write_accounts(support, uid, gid)
        client = self._client = engine.connect()
        self.undo.callback(client.close)
        if self.sweeps:
            with contextlib.suppress(SandboxLost):  # what is wrong with others' is no reason not to start
                engine.sweep(client)
        self._image_environment = image_environment(client, self.image)
        self._listen(support)
        self._container = Container(client, self._config(), self._host_config(support), f"{uid}:{gid}")
        self.undo.callback(self._container.remove)
        if self._container.hello["workspace"] != self.spec.workspace.stat().st_ino:
            hint = "it must run on this machine and see this folder (not from a snap, not with PrivateTmp)"
            raise SandboxStartError(f"the Docker engine does not see {self.spec.workspace}", hint)

    def _listen(self, support: Path) -> None:
        """The socket that tells the keeper whether we live; commands may connect too, and learn nothing."""
        folder = os.open(support, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX)
        self.undo.callback(listener.close)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{DRIVER_SOCKET}")  # the folder's own path may be too long for it
        finally:
            os.close(folder)
        (support / DRIVER_SOCKET).chmod(0o666)  # the keeper is another user than we are
        listener.listen(PLACES)

    def _config(self) -> dict[str, Any]:
        visible_gpus = ",".join(self.spec.gpus) or "void"
        return {
            "image": self.image,
            "labels": dict(engine.labels(self.spec.name)),
            "working_dir": "/",
            "hostname": "sandbox",
            "healthcheck": {"test": ["NONE"]},
            # CUDA images ask for all devices; where NVIDIA's runtime is the default one they would get them.
            "environment": {"NVIDIA_VISIBLE_DEVICES": visible_gpus},
        }

    def _host_config(self, support: Path) -> dict[str, Any]:
        from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

        limits = self.spec.limits
        binds = [
            Bind(self.spec.workspace, WORKSPACE, self.spec.workspace_writable),
            Bind(support / "tmp", "/tmp", writable=True),
            Bind(support / "etc" / "passwd", "/etc/passwd"),
            Bind(support / "etc" / "group", "/etc/group"),
            Bind(support / DRIVER_SOCKET, LIFELINE),
            *self.spec.binds,
        ]
        ulimits = {
            "core": 0,
            "fsize": None if limits.file_mib is None else limits.file_mib << 20,
            "nofile": limits.open_files,
        }
        memory = None if limits.memory_mib is None else limits.memory_mib << 20
        processes = None if limits.processes is None else limits.processes + RESERVED_PROCESSES
        return {
            "mounts": [Mount(b.target, str(b.source.absolute()), "bind", read_only=not b.writable) for b in binds],
            "network_mode": "bridge" if self.spec.network else "none",
            "ipc_mode": "private",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "read_only": True,
            "init": True,
            "mem_limit": memory,
            "memswap_limit": memory,
            "pids_limit": processes,
            "nano_cpus": None if limits.cpus is None else int(min(limits.cpus, os.cpu_count() or 1) * 1e9),
            "shm_size": visible.shm_bytes(len(self.spec.gpus)),
            "ulimits": [Ulimit(name=name, soft=at, hard=at) for name, at in ulimits.items() if at is not None],
            "log_config": LogConfig(type="none"),
            "device_requests": [DeviceRequest(device_ids=list(self.spec.gpus), capabilities=[["gpu"]])]
            if self.spec.gpus
            else None,
        }

    def begin(self, order: Order) -> DockerProcess:
        """Start a command in the container, begun again where the last command had to be ended with it."""
        assert self.support
        assert self._container is not None
        unset = [name for name in (*self._image_environment, "HOSTNAME", "NVIDIA_VISIBLE_DEVICES")]
        env = [f"{name}={value}" for name, value in order.env.items()]
        env += [name for name in dict.fromkeys(unset) if name not in order.env]
        roots = [str(self.spec.workspace.absolute()), str(self.support / "tmp")]
        cwd = order.cwd if order.cwd.startswith("/") else f"{WORKSPACE}/{order.cwd}"
        if not all(map(_is_text, (cwd, *order.words, *env))):
            cwd, order = WORKSPACE, replace(order, words=refusal(NO_TEXT))
            env = [name for name in env if _is_text(name)]
        return DockerProcess(self._container, order, cwd, env, self.spec.limits, roots)

    def path_of(self, target: str) -> str:
        """The same path: everything is where the spec says."""
        return target

    def environment(self) -> dict[str, str]:
        """The spec's own, the image's search paths, and where home and temporary files are."""
        kept = {name: self._image_environment[name] for name in IMAGE_VARIABLES if name in self._image_environment}
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            **kept,
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "LANG": "C.UTF-8",
            **self.spec.environment,
        }

    def is_counted(self) -> bool:
        """Whether the CPU time of commands can be seen."""
        assert self._container is not None
        return bool(self._container.hello["counted"])

    def describe(self) -> str:
        """One line for a person."""
        assert self._client is not None
        with engine.lost_when_gone("describe itself"):
            known = self._client.info()
        version, driver = known.get("ServerVersion"), known.get("Driver")
        return f"Docker {version} ({driver}, cgroup v{known.get('CgroupVersion', '1')}), image {self.image}"


def _is_text(word: str) -> bool:
    """Whether the engine can be told this word: it would change it silently."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_environment(client: APIClient, image: str) -> dict[str, str]:
    """The variables that an image sets.

    Raises:
        CapabilityMissing: it is not there.
        SandboxLost: the engine is gone.
    """
    from docker.errors import ImageNotFound

    with engine.lost_when_gone("find the image"):
        try:
            known = client.inspect_image(image)
        except ImageNotFound as error:
            raise CapabilityMissing(f"the Docker engine has no image {image}", how_to_build(image)) from error
    return dict(line.split("=", 1) for line in known["Config"]["Env"] or () if "=" in line)
