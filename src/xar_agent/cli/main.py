"""``xar-agent``: finds the verb, runs it, and turns whatever happens into one line and an exit code.

Exit codes: 0 a full run finished and has a valid score; 1 it was tried and has none; 2 the user's input was wrong; 3 a
needed service is missing; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from xar_agent import __version__
from xar_agent.cli.terminal import one_line, show_traceback, tell_error
from xar_agent.errors import Interrupted, StoreError, UserError, XarError

VERBS = (
    "implement",
    "evolve",
    "evaluate",
    "confirm",
    "replay",
    "report",
    "verify",
    "envs",
    "runs",
    "models",
    "jobs",
    "doctor",
)
"""In the order of ``--help``; each is ``xar_agent.cli.<verb>.command``, imported when it is needed."""

PIPE_CLOSED_EXIT = 1
"""As click has it: whoever read the result went away before its end."""


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are asked for, which keeps ``--help`` fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"xar_agent.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="xar-agent")
def cli() -> None:
    """Turn a research idea in plain language into a measured result.

    An agent edits a small research repository in a sandbox, tests it and submits it; a trusted evaluator trains and
    scores it against a baseline with its error bar.
    """


@dataclass(frozen=True, slots=True)
class Report:
    """How an ending is told: as JSON on stdout, as a traceback, or as one line on stderr."""

    as_json: bool
    debug: bool

    def ended(self, error: XarError) -> int:
        """Tell the user, and give the exit code."""
        if self.as_json:
            told = {"error": one_line(error.message), "hint": one_line(error.hint)}
            print(json.dumps(told, ensure_ascii=False), flush=True)
        tell_error(error, debug=self.debug)
        return error.exit_code

    def unexpected(self, error: Exception) -> int:
        """Something that no code foresaw."""
        if self.debug:
            show_traceback(error)
        hint = "" if self.debug else "run again with --debug to see where it happened"
        return self.ended(XarError(f"unexpected {type(error).__name__}: {error}", hint))


def from_click(error: click.ClickException) -> XarError:
    """A misuse of the command line, in our words."""
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "xar-agent"
    return UserError(error.format_message().rstrip("."), f"see: {where} --help")


def from_os(error: OSError) -> XarError | None:
    """An operating system's refusal that the user can do something about; None for the others."""
    place = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(f"the disk is full{place}", "free some space, or use --runs-dir on another disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        return StoreError(f"no permission{place}", "use --runs-dir (or XAR_CACHE) for a folder that you may write")
    return None


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code."""
    report = Report(as_json="--json" in arguments, debug="--debug" in arguments)
    try:
        result = cli.main(args=list(arguments), prog_name="xar-agent", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return UserError.exit_code
    except click.ClickException as error:
        return report.ended(from_click(error))
    except (click.Abort, KeyboardInterrupt):
        return report.ended(Interrupted("interrupted"))
    except XarError as error:
        return report.ended(error)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED_EXIT
    except OSError as error:
        known = from_os(error)
        return report.ended(known) if known else report.unexpected(error)
    except Exception as error:  # the one place that must tell every failure in one line
        return report.unexpected(error)


def main() -> None:
    """The entry point of ``xar-agent``."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))
