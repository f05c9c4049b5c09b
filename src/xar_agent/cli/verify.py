"""``xar-agent verify``: train a result card's patch again and hold what comes out against what the card says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import common_to_runs, settings_from, start_logging

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from xar_agent.cli.live import Live
    from xar_agent.config import Settings
    from xar_agent.envs.spec import EnvSpec
    from xar_agent.jobs.bench import Bench
    from xar_agent.jobs.card import Card
    from xar_agent.jobs.runs import RunStore
    from xar_agent.jobs.verification import Verification
    from xar_agent.sandbox.protocol import SandboxInfo


@click.command(name="verify", short_help="Train a result card's patch again.")
@click.argument("card", metavar="CARD")
@click.option("--seeds", type=click.IntRange(1, 100), metavar="N", help="Only the first N seeds of the card.")
@click.option("--env", metavar="NAME", help="Where the card's environment is, if it is not known by its name.")
@common_to_runs
def command(
    card: str, seeds: int | None, env: str | None, run_name: str | None, as_json: bool, debug: bool, **flags: Any
) -> int:
    """Train the patch in CARD (a card.json) again, at its own seeds, through the same jobs and checks.

    On the card's machine and versions every value must come out again; elsewhere the means must agree within chance.
    """
    from xar_agent.cli.live import Live
    from xar_agent.cli.terminal import print_json, progress_console, result_console, show_parts

    start_logging(debug=debug)
    settings = settings_from(debug, **flags)
    checking = make_checking(settings, Path(card), seeds, env, run_name)
    with Live(progress_console()) as live:
        run_dir, found = carry_out(live, checking)
    if as_json:
        print_json(checked_json(checking, run_dir, found))
    else:
        show_parts(result_console(), page_of(checking, run_dir, found))
    return 0 if found.reproduced else 1


@dataclass(frozen=True, slots=True)
class Checking:
    """One card that is to be checked."""

    path: Path
    card: Card
    env: EnvSpec
    seeds: tuple[int, ...]
    sandbox: SandboxInfo
    settings: Settings
    run_name: str | None

    def record(self) -> dict[str, Any]:
        """What run.json keeps of it."""
        wanted = self.card.env
        return {
            "verb": "verify",
            "card": str(self.path),
            "card_digest": self.card.digest,
            "idea_id": self.card.idea_id,
            "env": self.env.name,
            "env_version": self.env.version,
            "evaluator_version": self.env.evaluator_version,
            "preset": wanted.preset,
            "split": wanted.split,
            "sandbox": self.sandbox.backend,
            "image": self.sandbox.image or None,
            "seeds": list(self.seeds),
            "data": self.settings.data,
            "budget_hours": self.settings.budget_hours,
        }


def make_checking(
    settings: Settings, path: Path, n_seeds: int | None, env: str | None, run_name: str | None
) -> Checking:
    """Check the card and everything else that the user gave; nothing is started.

    Raises:
        UserError: it is no card, was changed, or is of other files. ServiceMissing: no sandbox works here.
    """
    from xar_agent import sandbox
    from xar_agent.cli.plan import check_same_undertaking
    from xar_agent.envs.spec import load_env
    from xar_agent.errors import UserError
    from xar_agent.jobs.card import read_card
    from xar_agent.jobs.verification import check_env
    from xar_agent.sandbox.gpus import require_gpus

    card = read_card(path)
    spec = load_env(env or card.env.name)
    check_env(card, spec)
    spec = spec.at(card.env.preset)
    if n_seeds is not None and n_seeds > len(card.seeds):
        raise UserError(
            f"the card has {len(card.seeds)} seeds, not {n_seeds}", "leave --seeds out to check all of them"
        )
    preset = spec.preset(card.env.preset)
    info = sandbox.probe(settings.sandbox, image=settings.image, gpus=preset.gpus > 0)
    require_gpus(info, preset.gpus)
    checking = Checking(path, card, spec, card.seeds[:n_seeds], info, settings, run_name)
    check_same_undertaking(settings.runs_dir, run_name, checking.record(), ("verb", "card_digest"))
    return checking


def carry_out(live: Live, checking: Checking) -> tuple[Path, Verification]:
    """Everything that takes time, in a run of its own."""
    from xar_agent.agent.limits import deadline
    from xar_agent.cli.events import show_event, show_measuring, show_patch
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.prepare import open_run, prepared_bench
    from xar_agent.jobs.verification import check_bench, compare_with_card, known_baseline, train_again

    card, settings = checking.card, checking.settings
    show_measuring(live, checking.env, card.env.preset, checking.sandbox)
    hours = settings.budget_hours
    with interruptible() as cancel, open_run(checking) as store:
        bench = prepared_bench(live, checking.env, card.env.preset, settings, store.dir)
        check_bench(card, bench)
        show_patch(live, card.patch)
        record_idea(store, bench, card)
        with deadline(cancel, hours * 3600 if hours else None):
            jobs = train_again(
                store, bench, card, checking.seeds, on_event=lambda event: show_event(live, event), cancel=cancel
            )
        return store.dir, compare_with_card(card, jobs, known_baseline(card, bench))


def record_idea(store: RunStore, bench: Bench, card: Card) -> None:
    """The card's idea and patch as those of the new run."""
    from xar_agent.jobs.records import IdeaRecord
    from xar_agent.store import write_atomic

    store.add_idea(IdeaRecord(card.idea_id, card.idea, bench.env.name))
    write_atomic(store.dir / "impl" / card.idea_id / "patch.diff", card.patch.diff)


def checked_json(checking: Checking, run_dir: Path, found: Verification) -> dict[str, Any]:
    """The object that ``verify --json`` prints."""
    from xar_agent.jobs.verification import verification_json

    card = checking.card
    return {
        **verification_json(found),
        "card": str(checking.path),
        "card_digest": card.digest,
        "card_machine": card.made_with.machine,
        "env": card.env.name,
        "preset": card.env.preset,
        "split": card.env.split,
        "metric": card.env.metric,
        "corpus": card.env.corpus,
        "run_dir": str(run_dir),
        "sandbox": checking.sandbox.backend,
    }


def page_of(checking: Checking, run_dir: Path, found: Verification) -> RenderableType:
    """The verdict with its figures."""
    from rich.text import Text

    from xar_agent.analysis.text import one_line
    from xar_agent.cli.table import shown
    from xar_agent.cli.terminal import facts_grid

    card = checking.card
    verdict = Text("reproduced", "bold green") if found.reproduced else Text("not reproduced", "bold red")
    rows: list[tuple[str, str | Text]] = [("verdict", verdict)]
    rows += [("idea", one_line(card.idea, 200))] if card.idea else []
    where = f"{card.env.name}, preset {card.env.preset}, {card.env.split} split, data {card.env.corpus}"
    rows.append(("env", one_line(where, 300)))
    rows += [(f"seed {one.seed}", seed_text(one.on_card, one.here, one.reason)) for one in found.again]
    rows.append(("mean", mean_text(found)))
    rows.append(("rule", rule_text(found)))
    rows += [("differs", one_line(difference, 300)) for difference in found.differences]
    return facts_grid([*rows, ("run", shown(run_dir))])


def seed_text(on_card: float, here: float | None, reason: str) -> str:
    """``1.1384 on the card, 1.1384 here``."""
    from xar_agent.analysis.text import one_line

    return f"{on_card:.6f} on the card, " + (f"{here:.6f} here" if here is not None else one_line(reason, 300))


def mean_text(found: Verification) -> str:
    """Both means and their difference."""
    if found.mean_here is None:
        return f"{found.mean_on_card:.6f} on the card, none here"
    return f"{found.mean_on_card:.6f} on the card, {found.mean_here:.6f} here, difference {found.difference:+.6f}"


def rule_text(found: Verification) -> str:
    """What had to be so."""
    if found.same_place:
        return f"the same machine and versions: every value within {found.allowed:g}"
    digits = max(4, 2 - math.floor(math.log10(found.allowed))) if found.allowed > 0 else 4
    return f"another place: the means within {found.allowed:.{digits}f}, where 95 of 100 repetitions lie"
