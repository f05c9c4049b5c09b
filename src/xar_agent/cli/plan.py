"""What a command is going to do, with all of the user's input checked before anything is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.errors import PatchRefused, UserError

if TYPE_CHECKING:
    from xar_agent.agent.choose import ModelChoice
    from xar_agent.agent.limits import EpisodeLimits
    from xar_agent.agent.types import Idea
    from xar_agent.config import Settings
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.jobs.bench import Bench
    from xar_agent.sandbox.protocol import Patch, SandboxInfo

SAME = ("verb", "env", "preset", "idea_id")
"""Settings that a run keeps: with others it would be another undertaking."""
OF_BATCHES = frozenset({"policy", "epochs", "ideas", "parallel", "budget_gpu_hours"})
MAX_IDEA_CHARS = 20_000
"""More than a model should read as one idea; a paper belongs into a file of the environment."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One command, checked."""

    idea: Idea | None
    """None when a person's own diff is measured."""
    env: EnvSpec
    preset: str
    model: ModelChoice | None
    sandbox: SandboxInfo
    settings: Settings
    seeds: tuple[int, ...]
    """Empty for ``confirm``, which draws its own."""
    patch_text: str | None
    """The parent's diff, or the person's own."""
    submit: bool
    run_name: str | None
    verb: str
    missing: str = ""
    """Why this machine cannot carry it out; empty when it can. Only a dry run goes on with a reason."""

    def limits(self, spent_s: float) -> EpisodeLimits:
        """What the episode may use when the command has taken so long already."""
        from xar_agent.agent.limits import EpisodeLimits

        hours = self.settings.budget_hours
        return EpisodeLimits(
            max_steps=self.settings.max_steps,
            budget_usd=self.settings.budget_usd,
            budget_tokens=self.settings.budget_tokens,
            wall_s=max(hours * 3600 - spent_s, 0.0) if hours else None,
        )

    def patch(self, bench: Bench) -> Patch | None:
        """The given diff against the environment's base.

        Raises:
            PatchRefused: it does not apply without fuzz, or touches what it may not.
        """
        from xar_agent.sandbox.tree import apply_patch

        if self.patch_text is None:
            return None
        patch = bench.diff(apply_patch(bench.git_store, bench.base_tree, self.patch_text))
        if not patch.diff:
            raise PatchRefused("the patch changes nothing", "make it with: git diff > my.patch")
        return patch

    def record(self) -> dict[str, Any]:
        """What run.json keeps of it."""
        settings = self.settings.model_dump(mode="json", exclude={"runs_dir", "cache_dir", *OF_BATCHES})
        return {
            **settings,
            "verb": self.verb,
            "idea_id": self.idea.id if self.idea else None,
            "env": self.env.name,
            "env_version": self.env.version,
            "evaluator_version": self.env.evaluator_version,
            "preset": self.preset,
            "model": self.model.name if self.model else None,
            "sandbox": self.sandbox.backend,
            "image": self.sandbox.image or None,
            "seeds": list(self.seeds),
            "submit": self.submit,
        }


def make_plan(
    settings: Settings,
    *,
    idea: str | None,
    patch: str | None,
    model: str | None = None,
    first_seed: int,
    submit: bool,
    run_name: str | None,
    verb: str = "",
    dry: bool = False,
) -> Plan:
    """Check everything that the user gave.

    ``idea`` is None for ``evaluate`` and ``confirm``; ``patch`` is the path of a diff, or "-" for stdin; None is what
    was not given. With ``dry`` a capability that this machine lacks is said in the plan and is no error.

    Raises:
        UserError, ServiceMissing: the input is wrong, or no sandbox or model can be had; nothing was started.
    """
    from xar_agent.agent.choose import choose_model
    from xar_agent.agent.types import Idea
    from xar_agent.envs.spec import load_env

    text = None if idea is None else checked_idea(idea)
    env = load_env(settings.env)
    preset = settings.preset or env.default_preset
    env = env.at(preset)
    info, missing = probed(settings, env.preset(preset).gpus, dry=dry)
    plan = Plan(
        idea=None if text is None else Idea(text, env.name),
        env=env,
        preset=preset,
        patch_text=None if patch is None else read_patch(patch),
        model=None if text is None else choose_model(model, configured=settings.model, api_base=settings.api_base),
        sandbox=info,
        settings=settings,
        seeds=() if verb == "confirm" else tuple(range(first_seed, first_seed + settings.seeds)),
        submit=submit,
        run_name=run_name,
        verb=verb or ("evaluate" if idea is None else "implement"),
        missing=missing,
    )
    check_same_undertaking(settings.runs_dir, run_name, plan.record(), SAME)
    return plan


def probed(settings: Settings, gpus: int, *, dry: bool) -> tuple[SandboxInfo, str]:
    """The sandbox and, in a dry run, why this machine cannot do the work: no sandbox works, or GPUs are missing.

    Raises:
        CapabilityMissing: that, when the work is to be done.
    """
    from xar_agent import sandbox
    from xar_agent.errors import CapabilityMissing
    from xar_agent.sandbox.gpus import require_gpus

    reasons = []
    try:
        info = sandbox.probe(settings.sandbox, image=settings.image, gpus=gpus > 0)
    except CapabilityMissing as error:
        if not dry:
            raise
        reasons.append(error.message)
        info = sandbox.probe("process")
    try:
        require_gpus(info, gpus)
    except CapabilityMissing as error:
        if not dry:
            raise
        reasons.append(error.message)
    return info, "; ".join(reasons)


def checked_idea(text: str) -> str:
    """The idea without blank edges.

    Raises:
        UserError: it is empty or far too long.
    """
    idea = text.strip()
    if not idea:
        raise UserError(
            "the idea is empty", "say in a sentence what to try, for instance: raise the learning rate to 6e-3"
        )
    if len(idea) > MAX_IDEA_CHARS:
        raise UserError(
            f"the idea has {len(idea):,} characters", f"at most {MAX_IDEA_CHARS:,}: say in short what to try"
        )
    return idea


def read_patch(name: str) -> str:
    """The diff in a file, or on stdin for "-".

    Raises:
        UserError: it cannot be read.
        PatchRefused: it is empty or not text.
    """
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the patch {name}: {error.strerror}", "give the path of a diff, or - for stdin"
        ) from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise PatchRefused(f"the patch {name} is not UTF-8 text", "make it with: git diff > my.patch") from None
    if not text.strip():
        raise PatchRefused(f"the patch {name} is empty", "make it with: git diff > my.patch")
    return text


def check_same_undertaking(runs_dir: Path, name: str | None, now: Mapping[str, Any], keys: Sequence[str]) -> None:
    """A run of this name may go on, if it is the same undertaking.

    Args:
        runs_dir: folder of all runs.
        name: the run's, if the user gave one.
        now: what run.json would keep of the command.
        keys: those that must be as they were.

    Raises:
        UserError: it is about something else, or the name cannot be one.
    """
    from xar_agent.jobs.runs import NAME, RUN_FILE, read_run_file

    if name is None:
        return
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is not a name for a run", "use letters, digits, dot, dash and underscore")
    if not (runs_dir / name / RUN_FILE).exists():
        return
    begun = read_run_file(runs_dir / name).get("settings") or {}
    for key in keys:
        if begun.get(key) != now[key]:
            other = key.removesuffix("_id").removesuffix("_sha256").replace("_", " ")
            problem = f"run {name!r} exists already, with another {other}"
            raise UserError(problem, f"choose another --run; see: xar-agent runs show {name}")


def about_model(choice: ModelChoice) -> str:
    """Its line, for a place where the label says already that it is the model."""
    return choice.line.removeprefix("model ")


def about_sandbox(sandbox: SandboxInfo) -> str:
    """What it keeps away from the code of a model; what it cannot, in capitals."""
    can = sandbox.capabilities
    if not can.secrets_hidden:
        return f"{sandbox.backend}: NOT ISOLATED, code that the model writes can read your files and keys"
    network = "no network" if can.network_off else "WITH NETWORK"
    name = f"{sandbox.backend} ({sandbox.image})" if sandbox.image else sandbox.backend
    return f"{name}: {network}, none of your files or keys inside, memory limit by {can.mem_limit}"
