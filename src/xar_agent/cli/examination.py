"""Everything that ``doctor`` looks at, and whether a run could begin here. It changes nothing and downloads nothing."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xar_agent.cli.leftovers import finders
from xar_agent.cli.machine import (
    TORCH_HINT,
    GpuLook,
    ModelLook,
    PythonLook,
    free_bytes,
    key_names,
    look_at_gpus,
    look_at_model,
    look_at_python,
    needs_torch,
)
from xar_agent.cli.prepare import MIN_FREE_BYTES
from xar_agent.errors import CapabilityMissing, ServiceMissing, XarError
from xar_agent.sandbox.look import (
    TRY_S,
    BwrapLook,
    CgroupLook,
    EngineLook,
    look_at_bwrap,
    look_at_cgroups,
    look_at_engine,
)

if TYPE_CHECKING:
    from xar_agent.config import Settings
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.sandbox.clean import Leftover
    from xar_agent.sandbox.protocol import SandboxInfo


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found."""

    settings: Settings
    env: EnvSpec
    preset: str
    engine: EngineLook
    bwrap: BwrapLook
    cgroups: CgroupLook
    gpus: GpuLook
    model: ModelLook
    keys: tuple[str, ...]
    free: dict[str, tuple[str, int]]
    """Use -> folder and free bytes."""
    python: PythonLook
    leftovers: tuple[Leftover, ...]
    sandbox: SandboxInfo | None
    """None: no sandbox can be used."""
    why: str
    """Why this sandbox, or why none."""
    obstacle: ServiceMissing | None
    """The first thing that keeps a run from beginning; None: it could begin."""

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        used = {
            "wanted": self.settings.sandbox,
            "sandbox": self.sandbox.backend if self.sandbox else None,
            "image": (self.sandbox.image or None) if self.sandbox else None,
            "why": self.why,
            "model": self.model.name or None,
            "env": self.env.name,
            "preset": self.preset,
        }
        left = [
            {"kind": one.kind, "name": one.name, "why": one.why, "removable": bool(one.remove)}
            for one in self.leftovers
        ]
        return {
            "ready": self.obstacle is None,
            "error": self.obstacle.message if self.obstacle else None,
            "hint": self.obstacle.hint if self.obstacle else None,
            "engine": {key: value for key, value in asdict(self.engine).items() if key != "images"},
            "images": [asdict(image) for image in self.engine.images],
            "gpus": asdict(self.gpus),
            "bwrap": asdict(self.bwrap),
            "cgroups": asdict(self.cgroups),
            "model": asdict(self.model),
            "keys": list(self.keys),
            "disk": {use: {"folder": folder, "free_bytes": free} for use, (folder, free) in self.free.items()},
            "python": asdict(self.python),
            "leftovers": left,
            "used": used,
        }


def examine(settings: Settings) -> Examination:
    """Look at everything.

    Raises:
        UserError: the settings name an environment or a preset that does not exist.
    """
    from xar_agent.envs.spec import load_env
    from xar_agent.sandbox.images import CPU_IMAGE, GPU_IMAGE

    env = load_env(settings.env)
    preset = settings.preset or env.default_preset
    n_gpus = env.preset(preset).gpus
    engine = look_at_engine((settings.image,) if settings.image else (CPU_IMAGE, GPU_IMAGE))
    lookers = finders(settings.runs_dir, engine=bool(engine.version))
    leftovers = tuple(one for finder in lookers for one in finder())
    bwrap, gpus, model, python = look_at_bwrap(), look_at_gpus(), look_at_model(settings), look_at_python()
    free = free_bytes(settings)
    sandbox, why, missing = choose_sandbox(settings, engine, gpus=n_gpus > 0)
    if n_gpus and gpus.why_not:
        missing = missing or CapabilityMissing(gpus.why_not, gpus.hint)
    obstacle = missing or first_obstacle(env, n_gpus, sandbox, model, python, free)
    return Examination(
        settings=settings,
        env=env,
        preset=preset,
        engine=engine,
        bwrap=bwrap,
        cgroups=look_at_cgroups(),
        gpus=gpus,
        model=model,
        keys=tuple(key_names(os.environ)),
        free=free,
        python=python,
        leftovers=leftovers,
        sandbox=sandbox,
        why=why,
        obstacle=obstacle,
    )


def choose_sandbox(
    settings: Settings, engine: EngineLook, *, gpus: bool
) -> tuple[SandboxInfo | None, str, ServiceMissing | None]:
    """The sandbox that a run would have, why it is this one, and what to do where there is none."""
    from xar_agent.sandbox import NOT_DOCKER, probe
    from xar_agent.sandbox.patience import within

    wanted = settings.sandbox
    if not engine.version and wanted == "docker":
        return None, engine.why_not, CapabilityMissing(engine.why_not, engine.hint)
    # An engine that did not answer once is not asked again: each time costs its whole time-out.
    asked = "bubblewrap" if wanted == "auto" and not engine.version else wanted
    try:
        info = within(TRY_S, lambda: probe(asked, image=settings.image, gpus=gpus), f"the {asked} sandbox")
    except XarError as error:
        message = error.message if engine.version or wanted != "auto" else f"{error.message}; {engine.why_not}"
        return None, message, CapabilityMissing(message, error.hint)
    if wanted != "auto":
        return info, "named by --sandbox, XAR_SANDBOX or xar.toml", None
    if info.backend == "docker":
        return info, f"auto: its engine answers and has the image {info.image}", None
    reason = engine.why_not or info.detail.partition(NOT_DOCKER)[2] or "it cannot be used"
    return info, f"auto: not Docker, because {reason}", None


def first_obstacle(
    env: EnvSpec,
    n_gpus: int,
    sandbox: SandboxInfo | None,
    model: ModelLook,
    python: PythonLook,
    free: dict[str, tuple[str, int]],
) -> ServiceMissing | None:
    """What keeps ``implement`` from beginning where there is a sandbox, in the order in which to mend it."""
    from xar_agent.analysis.text import size
    from xar_agent.sandbox.gpus import require_gpus

    assert sandbox is not None
    try:
        require_gpus(sandbox, n_gpus)
    except XarError as error:
        return CapabilityMissing(error.message, error.hint)
    if model.why_not:
        name = f"the model {model.name}" if model.name else "no model"
        return ServiceMissing(f"{name} cannot be used: {model.why_not}" if model.name else model.why_not, model.hint)
    if needs_torch(env):
        if sandbox.image and sandbox.runtime.endswith("no torch"):
            return ServiceMissing(
                f"{env.name} needs torch, and the image {sandbox.image} has none", "use another image"
            )
        if not sandbox.image and not python.torch:
            return ServiceMissing(f"{env.name} needs torch, which is not installed in {sys.prefix}", TORCH_HINT)
    for use, (folder, n_bytes) in free.items():
        if n_bytes < MIN_FREE_BYTES:
            there = f"{size(n_bytes)} are free in {folder} ({use}), a run needs {size(MIN_FREE_BYTES)}"
            return ServiceMissing(there, "free some space, or set XAR_RUNS, XAR_CACHE or TMPDIR to another disk")
    return None
