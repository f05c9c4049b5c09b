"""Try every cheat, or every honest edit, through the product's own jobs and see what the checks say.

    python benchmarks/cheats/run.py [--only GLOB] [--honest | --blind] [--env nanogpt|toy] [--quick] [--parallel 2]

The nanogpt environment is measured at a part of its size (suite.py), so that all of it takes minutes. Results go to
results.json (results-honest.json, results-blind.json, results-toy.json) and into the tables of README.md; with --only
they replace those of the same names there.
Exit code 1: a cheat is not caught by the check that it names, or an honest edit is accused.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from machine import about_now  # noqa: E402  - the benchmarks are scripts beside each other, not a package
from report import write_docs, write_results  # noqa: E402
from suite import QUICK, Attempt, Finding, Kind, Suite, attempts_of, open_suite  # noqa: E402

from xar_agent.envs.spec import load_env  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--honest", action="store_true", help="radical but honest edits: none may be accused")
    kind.add_argument("--blind", action="store_true", help="attempts whose check is not known beforehand")
    parser.add_argument("--env", default="nanogpt", choices=["nanogpt", "toy"])
    parser.add_argument("--only", nargs="+", metavar="GLOB", help="names, such as 'future_*' or 'worker/*'")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sandbox", default="auto", choices=["auto", "docker", "bubblewrap"])
    parser.add_argument("--quick", action="store_true", help="even smaller, for a first look; implies --no-results")
    parser.add_argument("--docs", action="store_true", help="run nothing; renew the table of docs/cheats.md")
    parser.add_argument("--keep", type=Path, help="folder for logs of the runs; a temporary one by default")
    parser.add_argument("--no-results", action="store_true", help="print only; leave results and README as they are")
    return parser.parse_args()


def is_wanted(name: str, globs: list[str] | None) -> bool:
    """No names are given, or this is one of them."""
    return globs is None or any(fnmatch.fnmatch(name, glob) for glob in globs)


def key_of(attempt: Attempt, env: str, quick: bool) -> str:
    """Name of the suite that an attempt is tried in: its variant and its size."""
    small = env == "nanogpt" and attempt.variant != "seconds" and (quick or attempt.sizes == QUICK)
    return (attempt.variant or "plain") + ("-small" if small else "")


def open_suites(arguments: argparse.Namespace, chosen: list[Attempt], folder: Path) -> dict[str, Suite]:
    """Every suite that is needed."""
    first = {key_of(attempt, arguments.env, arguments.quick): attempt for attempt in chosen}
    return {
        key: open_suite(
            *(arguments.env, attempt.variant, folder / key, arguments.sandbox, arguments.seed),
            QUICK if key.endswith("-small") else attempt.sizes,
        )
        for key, attempt in sorted(first.items())
    }


def run_all(
    suites: dict[str, Suite], chosen: list[Attempt], arguments: argparse.Namespace, keep: Callable[[Finding], None]
) -> list[Finding]:
    """Every attempt, several at a time, told and kept as they end."""
    one_at_a_time = threading.Lock()

    def run_one(attempt: Attempt) -> Finding:
        begun = time.monotonic()
        finding = suites[key_of(attempt, arguments.env, arguments.quick)].try_out(attempt)
        value = "" if finding.value is None else f"{finding.value:.4f}"
        told = "ok" if finding.ok else "NOT AS EXPECTED"
        with one_at_a_time:
            print(
                f"{told:4} {attempt.name:45} {attempt.expected:15} {'+'.join(finding.caught_by) or '-':32} {value:7}"
                f" {time.monotonic() - begun:5.1f} s  {'' if finding.ok else finding.reason}",
                flush=True,
            )
            keep(finding)
        return finding

    with ThreadPoolExecutor(arguments.parallel) as pool:
        return list(pool.map(run_one, chosen))


def keeper(kind: Kind, arguments: argparse.Namespace, suites: dict[str, Suite]) -> Callable[[Finding], None]:
    """What puts one finding into the results and tables."""
    environment, every = load_env(arguments.env), attempts_of(kind, arguments.env)
    about = about_now()
    about |= {"env_version": environment.version, "evaluator_version": environment.evaluator_version}
    about |= {"seed": arguments.seed, "untouched": {key: suite.untouched for key, suite in suites.items()}}

    def keep(finding: Finding) -> None:
        if arguments.no_results or arguments.quick:
            return
        write_results(kind, arguments.env, about, [asdict(finding)], [attempt.name for attempt in every])
        if kind == "cheats":
            write_docs(arguments.env, [asdict(attempt) for attempt in every])

    return keep


def main() -> int:
    """Run what was asked for; 1 when something is not as it must be."""
    arguments = parse_arguments()
    kind: Kind = "honest" if arguments.honest else "blind" if arguments.blind else "cheats"
    chosen = [a for a in attempts_of(kind, arguments.env) if is_wanted(a.name, arguments.only)]
    if not chosen:
        print(f"no attempt is called {arguments.only or kind}", file=sys.stderr)
        return 2
    if arguments.docs:
        write_docs(arguments.env, [asdict(attempt) for attempt in attempts_of("cheats", arguments.env)])
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        suites = open_suites(arguments, chosen, arguments.keep or Path(scratch))
        findings = run_all(suites, chosen, arguments, keeper(kind, arguments, suites))
    bad = [finding for finding in findings if not finding.ok]
    print(f"{len(findings)} tried, {len(bad)} not as expected")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
