"""``xar-agent replay``: look at a recorded episode, or let the harness decide everything once more."""

from __future__ import annotations

from pathlib import Path

import click

from xar_agent.cli.options import AS_JSON, DEBUG, settings_from


@click.command(name="replay", short_help="Look at a recorded episode, or check it against today's harness.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--mode",
    type=click.Choice(["view", "dry"]),
    default="view",
    show_default=True,
    help="view shows what was recorded; dry feeds the recorded replies and tool results to today's harness and "
    "prompts, and says whether they decide the same.",
)
@AS_JSON
@DEBUG
def command(path: Path, mode: str, as_json: bool, debug: bool) -> int:
    """Replay the episode in PATH: the folder of an episode, or of a run that has one. Nothing is executed."""
    settings_from(debug)
    return view(path, as_json=as_json) if mode == "view" else dry(path, as_json=as_json)


def view(path: Path, *, as_json: bool) -> int:
    """Show the record; no model, no sandbox, no import of either."""
    from xar_agent.analysis.episode import read_episode
    from xar_agent.analysis.replay_view import episode_json, show_episode
    from xar_agent.cli.terminal import print_json, result_console, trimmed

    episode = read_episode(path)
    if as_json:
        print_json(episode_json(episode))
        return 0
    console = result_console()
    with trimmed(console):
        show_episode(console, episode)
    return 0


def dry(path: Path, *, as_json: bool) -> int:
    """Decide everything once more from the record; exit code 1 at the first decision that differs."""
    import dataclasses

    from xar_agent.agent.replay import dry_replay
    from xar_agent.analysis.episode import find_episode
    from xar_agent.analysis.text import one_line
    from xar_agent.cli.terminal import print_json

    report = dry_replay(find_episode(path))
    difference = report.divergence
    if as_json:
        found = dataclasses.asdict(difference) if difference else None
        print_json({
            "episode": str(report.episode), "identical": report.identical, "steps": report.steps,
            "events": report.events, "divergence": found,
        })  # fmt: skip
    elif difference is None:
        click.echo(f"{report.steps} steps, {report.events} events: every decision is the same today")
    else:
        click.echo(f"step {difference.step}: {difference.what} differs")
        click.echo(f"  recorded  {one_line(difference.recorded, 200)}")
        click.echo(f"  today     {one_line(difference.replayed, 200)}")
    return 0 if report.identical else 1
