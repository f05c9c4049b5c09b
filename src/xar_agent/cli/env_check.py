"""``xar-agent envs check``: whether an environment keeps its promises, one line a point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xar_agent.cli.options import AS_JSON, DATA, DEBUG, SANDBOX, settings_from

if TYPE_CHECKING:
    from xar_agent.cli.live import Live
    from xar_agent.config import Settings
    from xar_agent.jobs.envcheck import Wish
    from xar_agent.jobs.findings import Finding

POINT_WIDTH = 16
WORDS = {"ok": "ok", "warning": "warning", "missing": "MISSING", "failed": "FAILED"}


@click.command(short_help="Say whether an environment keeps its promises, and what is missing.")
@click.argument("env", metavar="NAME|PATH")
@click.option("--preset", metavar="P", help="Preset. [default: the environment's first]")
@click.option("--quick", is_flag=True, help="Train for the smoke test's budget alone.")
@click.option("--cheats", is_flag=True, help="Try every planted cheat. [default: the first]")
@SANDBOX
@DATA
@AS_JSON
@DEBUG
def check(env: str, preset: str | None, quick: bool, cheats: bool, as_json: bool, debug: bool, **flags: Any) -> None:
    """Say whether an environment keeps its promises, and what is missing.

    Looks at its files and data, runs the smoke test, trains the unchanged repository twice with one seed and once with
    another, tries patches that must be refused, a program that only claims a score, and a planted cheat. NAME is one
    of `envs list`; a PATH has a slash. Exit code 0 when all is well, warnings allowed; 1 when something is not.
    """
    from xar_agent.cli.live import Live
    from xar_agent.cli.terminal import print_json, progress_console
    from xar_agent.jobs.envcheck import Wish
    from xar_agent.jobs.findings import passes

    settings = settings_from(debug, **flags)
    wish = Wish(folder_of(env), preset, quick, cheats)
    findings: list[Finding] = []
    with Live(progress_console()) as live:
        for finding in findings_of(live, wish, settings):
            findings.append(finding)
            if not as_json:
                live.finish("check")
                click.echo(line_of(finding))
    well = all(map(passes, findings))
    if as_json:
        print_json({"env": env, "folder": str(wish.folder), "ok": well, "findings": [asdict(f) for f in findings]})
    else:
        click.echo(verdict(findings))
    if not well:
        click.get_current_context().exit(1)


def folder_of(env: str) -> Path:
    """The folder of an environment, whether or not what lies there is valid.

    Raises:
        UnknownName: there is no environment of that name, and no folder at that path.
    """
    from xar_agent.envs.spec import list_envs
    from xar_agent.errors import UnknownName

    known = list_envs()
    if "/" not in env:
        if env not in known:
            hint = f"known environments: {', '.join(sorted(known))}; a path has a slash: ./{env}"
            raise UnknownName(f"no environment is called {env!r}", hint)
        return known[env]
    if not Path(env).is_dir():
        raise UnknownName(f"there is no folder {env}", "xar-agent envs init NAME writes one to start from")
    return Path(env).absolute()


def findings_of(live: Live, wish: Wish, settings: Settings) -> Iterator[Finding]:
    """What is found, with what is done next on stderr."""
    from xar_agent.cli.interrupt import interruptible
    from xar_agent.cli.prepare import prepared_bench
    from xar_agent.jobs.envcheck import examine
    from xar_agent.sandbox.held import HeldFolder

    with HeldFolder("calibrate") as scratch, interruptible() as cancel:

        def open_bench(spec: Any, preset: str) -> Any:
            return prepared_bench(live, spec, preset, settings, scratch)

        def tell(stage: str) -> None:
            live.advance("check", "check", 0, None, stage)

        yield from examine(wish, open_bench, on_stage=tell, cancel=cancel)


def line_of(finding: Finding) -> str:
    """State, point, what was seen, what to do."""
    from xar_agent.cli.terminal import one_line

    said = "; ".join(filter(None, (one_line(finding.text), one_line(finding.advice))))
    return f"{WORDS[finding.state]:8}{finding.point:{POINT_WIDTH}} {said}"


def verdict(findings: list[Finding]) -> str:
    """The last line."""
    from xar_agent.jobs.findings import passes

    wrong = [finding.point for finding in findings if not passes(finding)]
    warned = sum(finding.state == "warning" for finding in findings)
    if wrong:
        return f"not ready: {', '.join(wrong)}"
    return f"ready{f', {warned} warnings' if warned > 1 else ', 1 warning' if warned else ''}"
