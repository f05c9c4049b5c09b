"""The Docker engine: a client, the labels of our containers, and the removal of those that nobody owns any more."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from xar_agent.errors import CapabilityMissing, SandboxLost, SandboxStartError

if TYPE_CHECKING:
    from docker import APIClient

LABEL = "xar-agent"
NAME = "xar-agent.name"
OWNER = "xar-agent.owner"
EXPIRES = "xar-agent.expires"
LIFE_S = 7 * 86_400
"""After this a container whose owner cannot be judged from here is nobody's: longer than any training run."""
CONNECT_S = 5.0
ANSWER_S = 30.0
WAYS_ON = (
    "start Docker and see that `docker version` shows a server (DOCKER_HOST says where; "
    "your user must be in the group docker), or use --sandbox bubblewrap"
)


def connect() -> APIClient:
    """A client of the engine that DOCKER_HOST names, else of the usual socket; the caller closes it.

    Raises:
        CapabilityMissing: no engine answers; says why.
    """
    _try_socket()
    import docker
    from docker.errors import DockerException
    from docker.utils import kwargs_from_env
    from requests.exceptions import RequestException

    try:
        client = docker.APIClient(version="auto", timeout=CONNECT_S, **kwargs_from_env())
    except (DockerException, RequestException, ValueError) as error:
        text = " ".join(str(error).split())
        said = f"nobody listens at {_host()}" if "refused" in text else text[-200:]
        if "timed out" in text:
            said = f"{_host()} does not answer within {CONNECT_S:g} s"
        raise CapabilityMissing(f"no Docker engine answers: {said}", WAYS_ON) from error
    client.timeout = ANSWER_S
    return client


def _try_socket() -> None:
    """Knock before the SDK is loaded, which takes a while and leaves a socket open when nobody answers.

    Raises:
        CapabilityMissing: there is nobody.
    """
    kind, _, path = _host().partition("://")
    if kind != "unix":
        return
    said = {
        FileNotFoundError: f"there is no socket at {_host()}",
        ConnectionRefusedError: f"nobody listens at {_host()}",
        PermissionError: f"{_host()} may not be used by this user",
    }
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(CONNECT_S)
        try:
            knock.connect(path)
        except OSError as error:
            why = said.get(type(error), f"{_host()}: {error.strerror or error}")
            raise CapabilityMissing(f"no Docker engine answers: {why}", WAYS_ON) from error


def _host() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


@contextlib.contextmanager
def lost_when_gone(what: str) -> Iterator[None]:
    """An engine that refuses or does not answer is a lost sandbox, never the command's doing."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        raise SandboxLost(f"the Docker engine could not {what}: {explain(error)}", WAYS_ON) from error


@contextlib.contextmanager
def refused_start() -> Iterator[None]:
    """What the engine says about a container that it does not start, in words that help."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        said = explain(error)
        if "could not select device driver" in said:
            hint = "install nvidia-container-toolkit and restart the engine, or run with gpus = 0"
            raise SandboxStartError("this Docker engine has no GPU support", hint) from error
        raise SandboxStartError(f"the Docker engine did not start a container: {said}", "xar-agent doctor") from error


def explain(error: BaseException) -> str:
    """The engine's own words, on one line."""
    text = getattr(error, "explanation", None) or str(error)
    return " ".join(str(text).split())[-300:]


def labels(name: str) -> Mapping[str, str]:
    """Labels of a container of this process."""
    return {
        LABEL: "1",
        NAME: name,
        OWNER: _owner(os.getpid()),
        EXPIRES: str(int(time.time()) + LIFE_S),
    }


def sweep(client: APIClient) -> int:
    """Remove the containers of drivers that are dead, however they died; how many there were.

    Raises:
        SandboxLost: the engine does not answer.
    """
    from docker.errors import APIError

    count = 0
    with lost_when_gone("list containers"):
        for container in orphans(client):
            with contextlib.suppress(APIError):  # another process is removing it
                client.remove_container(container, force=True, v=True)
                count += 1
    return count


def orphans(client: APIClient) -> dict[str, str]:
    """Id and sandbox's name of our containers whose owner is dead, or unknown to this machine and past its time."""
    found = client.containers(all=True, filters={"label": LABEL})
    known = {container["Id"]: container.get("Labels") or {} for container in found}
    return {container: marks.get(NAME, "") for container, marks in known.items() if _is_orphan(marks)}


def _is_orphan(known: Mapping[str, str]) -> bool:
    boot, space, pid, _ = (known.get(OWNER, "").split("/") + [""] * 4)[:4]
    if boot != _boot_id() and _host().startswith("unix://"):
        return True  # of this machine before it was started anew; elsewhere it may be another machine's
    if (boot, space) != (_boot_id(), _pid_space()) or not pid.isdigit() or _is_hidden(int(pid)):
        expires = known.get(EXPIRES, "")
        return not expires.isdigit() or int(expires) < time.time()
    return known[OWNER] != _owner(int(pid))


def _is_hidden(pid: int) -> bool:
    """Whether a process lives that we may not look at, as another user's where /proc is mounted with hidepid."""
    try:
        Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except ProcessLookupError:
            return False
    return False


def _owner(pid: int) -> str:
    """A process that no other one will ever be: boot, pid namespace, pid and start time; no such one: no start time."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = "" if words[0] in "ZX" else words[19]
    except OSError:
        started = ""
    return f"{_boot_id()}/{_pid_space()}/{pid}/{started}"


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_space() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)
