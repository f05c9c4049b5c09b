"""What a batch of ideas is going to do, with all of the user's input checked before anything is started."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xar_agent.cli.plan import check_same_undertaking, checked_idea
from xar_agent.errors import UserError

if TYPE_CHECKING:
    from xar_agent.agent.choose import ModelChoice
    from xar_agent.agent.types import Idea
    from xar_agent.config import Settings
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.population.policies import IdeasFrom, Policy
    from xar_agent.sandbox.protocol import SandboxInfo

MAX_FILE_BYTES = 10 << 20
OF_ENV = ("env", "env_version", "evaluator_version", "preset")
SAME = ("verb", *OF_ENV, "policy", "ideas", "ideas_from", "ideas_sha256", "search_seed", "seeds", "submit")
"""Settings that a run keeps: with others it would be another undertaking. More epochs or more budget may be given."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One batch, checked."""

    verb: str
    """``evolve`` or ``implement``."""
    env: EnvSpec
    preset: str
    policy: Policy
    ideas_from: IdeasFrom
    given: tuple[Idea, ...]
    """The user's own ideas, for ``implement --ideas``."""
    epochs: int
    ideas: int
    parallel: int
    model: ModelChoice | None
    """None when no model is needed."""
    sandbox: SandboxInfo
    settings: Settings
    seeds: tuple[int, ...]
    search_seed: int
    submit: bool
    run_name: str | None

    @property
    def slots(self) -> int:
        """Training runs at a time: one core is left for an embedded model."""
        if self.model is None or self.model.kind != "local":
            return self.parallel
        return max(1, min(self.parallel, cores() - 1))

    def record(self) -> dict[str, Any]:
        """What run.json keeps of it."""
        return {
            **self.settings.model_dump(mode="json", exclude={"runs_dir", "cache_dir"}),
            "verb": self.verb,
            "env": self.env.name,
            "env_version": self.env.version,
            "evaluator_version": self.env.evaluator_version,
            "preset": self.preset,
            "policy": self.policy.name if not self.given else None,
            "ideas_from": "file" if self.given else self.ideas_from,
            "ideas_sha256": digest_of_ideas(self.given) if self.given else None,
            "epochs": self.epochs,
            "ideas": self.ideas,
            "parallel": self.parallel,
            "model": self.model.name if self.model else None,
            "sandbox": self.sandbox.backend,
            "image": self.sandbox.image or None,
            "seeds": list(self.seeds),
            "search_seed": self.search_seed,
            "submit": self.submit,
        }


def make_batch_plan(
    settings: Settings,
    *,
    verb: str,
    ideas_file: str | None = None,
    ideas_from: IdeasFrom | None = None,
    model: str | None = None,
    first_seed: int,
    search_seed: int = 1,
    submit: bool = True,
    run_name: str | None,
) -> BatchPlan:
    """Check everything that the user gave.

    Raises:
        UserError, ServiceMissing: the input is wrong, or no sandbox or model can be had; nothing was started.
    """
    from xar_agent import sandbox
    from xar_agent.agent.choose import choose_model
    from xar_agent.envs.spec import load_env
    from xar_agent.population.policies import policy_of
    from xar_agent.sandbox.gpus import require_gpus

    policy = policy_of(settings.policy)
    env = load_env(settings.env)
    preset = settings.preset or env.default_preset
    env = env.at(preset)
    given = read_ideas(ideas_file, env.name) if ideas_file is not None else ()
    source: IdeasFrom = ideas_from or policy.ideas_from
    check_knobs(env, source if not given else "model")
    needs_model = bool(given) or source == "model"
    choice = choose_model(model, configured=settings.model, api_base=settings.api_base) if needs_model else None
    if choice is not None:
        check_price_known(choice, settings)
    plan = BatchPlan(
        verb=verb,
        env=env,
        preset=preset,
        policy=policy,
        ideas_from=source,
        given=given,
        epochs=1 if given else settings.epochs,
        ideas=len(given) or settings.ideas,
        parallel=settings.parallel or default_parallel(env, preset),
        model=choice,
        sandbox=sandbox.probe(settings.sandbox, image=settings.image, gpus=env.preset(preset).gpus > 0),
        settings=settings,
        seeds=tuple(range(first_seed, first_seed + settings.seeds)),
        search_seed=search_seed,
        submit=submit,
        run_name=run_name,
    )
    require_gpus(plan.sandbox, env.preset(preset).gpus)
    if submit:
        check_baseline(env, preset, verb, plan.sandbox.runtime)
    check_same_undertaking(settings.runs_dir, run_name, plan.record(), SAME)
    return plan


def default_parallel(env: EnvSpec, preset: str) -> int:
    """As many ideas at a time as the machine's cores take, and where GPUs are needed its GPUs."""
    from xar_agent.sandbox.gpus import devices

    wanted = env.preset(preset)
    by_cores = max(1, cores() // wanted.cpus)
    return min(by_cores, max(1, len(devices()) // wanted.gpus)) if wanted.gpus else by_cores


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_knobs(env: EnvSpec, ideas_from: IdeasFrom) -> None:
    """Knobs can only be turned where there are some.

    Raises:
        UserError: the environment declares none.
    """
    from xar_agent.envs.knobs import read_knobs

    if ideas_from == "knobs" and not read_knobs(env):
        raise UserError(f"environment {env.name!r} has no knob menu", "add a knobs.toml, or choose another --policy")


def check_baseline(env: EnvSpec, preset: str, verb: str, runtime: str) -> None:
    """A search has nothing to search by without a baseline.

    Raises:
        UserError: there is none.
    """
    from xar_agent.jobs.baseline import baseline_for

    if verb == "evolve" and baseline_for(env, preset, runtime=runtime) is None:
        hint = f"measure it first: xar-agent envs calibrate {env.name} --preset {preset}"
        raise UserError(f"{env.name}/{preset} has no baseline to compare with", hint)


def check_price_known(choice: ModelChoice, settings: Settings) -> None:
    """A budget in USD can be kept only where the price is known beforehand.

    Raises:
        UserError: it is not.
    """
    if settings.budget_usd is not None and prices_of(choice) is None:
        hint = "use --budget-tokens or --budget-hours instead"
        raise UserError(f"the price of {choice.name} is not known, so a budget in USD cannot be kept", hint)


def prices_of(choice: ModelChoice) -> tuple[float, float] | None:
    """USD a token of input and of output at most; None when it is not known."""
    if choice.kind == "local":
        return (0.0, 0.0)
    if choice.kind == "scripted":
        from xar_agent.agent.choose import SCRIPTED_PREFIX
        from xar_agent.agent.scripted import ScriptedModel

        return ScriptedModel.from_file(Path(choice.name.removeprefix(SCRIPTED_PREFIX))).highest_prices()
    from xar_agent.agent.model import highest_prices

    return highest_prices(choice.name)


def read_ideas(name: str, env: str) -> tuple[Idea, ...]:
    """The ideas in a file: one a line (blank lines and lines with # count nothing), or JSON.

    JSON is a list, or one value a line (.jsonl): texts, or objects with "text" or "idea". The same idea twice is one.

    Raises:
        UserError: the file cannot be read, or holds no idea, or an entry is none; the message says where.
    """
    from xar_agent.agent.types import Idea

    path = Path(name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UserError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB", "that is no list of ideas")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}", "give a file with one idea a line") from error
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text", "give a file with one idea a line") from None
    entries = json_ideas(text, path) if path.suffix in (".json", ".jsonl") else line_ideas(text)
    ideas = {idea.id: idea for number, entry in entries for idea in [Idea(checked_entry(entry, name, number), env)]}
    if not ideas:
        raise UserError(f"{name} holds no idea", "write one idea a line")
    return tuple(ideas.values())


def line_ideas(text: str) -> list[tuple[int, object]]:
    """Number and text of each line that is an idea."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def json_ideas(text: str, path: Path) -> list[tuple[int, object]]:
    """Number and value of each entry.

    Raises:
        UserError: it is not JSON.
    """
    try:
        if path.suffix == ".jsonl":
            return [(n, json.loads(line)) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", "write a list of texts") from error
    if isinstance(value, dict):
        value = value.get("ideas")
    if not isinstance(value, list):
        raise UserError(f"{path} holds no list of ideas", 'it looks like ["first idea", "second idea"]')
    return list(enumerate(value, start=1))


def checked_entry(entry: object, name: str, number: int) -> str:
    """The text of one entry.

    Raises:
        UserError: it is no idea.
    """
    if isinstance(entry, dict):
        entry = entry.get("text", entry.get("idea"))
    if not isinstance(entry, str):
        raise UserError(f"{name}, entry {number}: no idea", 'an idea is a text, or an object with "text"')
    try:
        return checked_idea(entry)
    except UserError as error:
        raise UserError(f"{name}, entry {number}: {error.message}", error.hint) from error


def digest_of_ideas(ideas: Sequence[Idea]) -> str:
    """sha256 over the ideas in order."""
    return hashlib.sha256("\n".join(idea.id for idea in ideas).encode()).hexdigest()
