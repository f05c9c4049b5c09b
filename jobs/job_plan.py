"""How a training program is started, as plain values: the same for a real run and for a look at it beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xar_agent.envs.spec import EnvSpec, Preset
from xar_agent.jobs.limits import limits_of
from xar_agent.sandbox.protocol import WORKSPACE, Limits

LAUNCHER = "/xar/launch.py"
SOCKET = "/xar/data.sock"
DATA_FOLDER = "/xar/data"
OVERTIME_S = 30.0
"""After a budget of seconds has ended, for saving and ending."""
QUIET_PYTHON = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}
"""One thread, since two spin and count twice; the same hashes each time; output that is there when a run is killed."""
LOCAL_ADDRESS = "127.0.0.1"
"""Only the loopback is there, and the sandbox's own host name has no address: torchrun would look it up for minutes."""
OF_SEVERAL = {"PYTHONSAFEPATH": "1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""For torchrun, which starts the launcher without ``-P``, and for those who talk to each other."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One training run as it is started in an isolating sandbox."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    """What the program is told, besides what every command in a sandbox sees and which devices are its own."""
    binds: Mapping[str, str]
    """Path inside -> what is shown there, read-only; the workspace besides."""
    workspace: str
    limits: Limits
    gpus: int
    processes: int
    """Copies of the program, one a GPU."""
    clock: str
    budget: int
    """In units of the clock."""
    overtime_s: float | None
    """What a program has after a budget of seconds; None: no such budget."""
    wall_s: float
    """Limit of the whole command, whatever its clock says."""
    counts_cpu: bool
    """Its CPU seconds are held against those that the unchanged repository needs here."""


def job_plan(
    env: EnvSpec,
    preset_name: str,
    *,
    seed: int = 1,
    budget: int | None = None,
    wall_s: float | None = None,
    python: str = "python3",
    place: Callable[[str], str] = str,
) -> JobPlan:
    """What a training run of this preset is; nothing is started or looked for.

    Args:
        env: the environment.
        preset_name: its size.
        seed: of the run.
        budget: None: the preset's.
        wall_s: None: the preset's.
        python: interpreter inside the sandbox.
        place: where the sandbox has a path of ours, if not there.

    Raises:
        UnknownName: there is no such preset.
    """
    preset = env.preset(preset_name)
    budget = preset.budget if budget is None else budget
    processes = max(1, preset.gpus)
    data = DATA_FOLDER if preset.data == "folder" else SOCKET
    told = {"XAR_DATA": place(data), "XAR_BUDGET": str(budget), "XAR_SEED": str(seed)}
    what = "the training split" if preset.data == "folder" else "the host's token stream"
    return JobPlan(
        command=training_command(python, place(LAUNCHER), env.file.train, processes),
        environment={**QUIET_PYTHON, **(OF_SEVERAL if processes > 1 else {}), **told},
        binds={LAUNCHER: "the host's launcher", data: what},
        workspace=place(WORKSPACE),
        limits=limits_of(preset),
        gpus=preset.gpus,
        processes=processes,
        clock=preset.clock,
        budget=budget,
        overtime_s=OVERTIME_S if preset.clock == "seconds" else None,
        wall_s=preset.wall_s if wall_s is None else wall_s,
        counts_cpu=counts_cpu(preset),
    )


def training_command(python: str, launcher: str, train: list[str], processes: int) -> tuple[str, ...]:
    """The environment's train command under the host's launcher; several processes under torchrun."""
    if processes == 1:
        return (python, "-P", launcher, *train)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--local-addr", LOCAL_ADDRESS)
    return (python, "-P", *torchrun, "--nproc-per-node", str(processes), launcher, *train)


def counts_cpu(preset: Preset) -> bool:
    """Whether CPU seconds bound a run: not where seconds of a stream do, and with GPUs only where a cap is named."""
    if preset.clock == "seconds":
        return preset.data == "folder" and preset.cpu_cap_s is not None
    return not preset.gpus or preset.cpu_cap_s is not None
