"""What can be said about an environment by reading its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xar_agent.envs.globs import matches
from xar_agent.envs.knobs import FILE_NAME, read_knobs
from xar_agent.envs.spec import EnvSpec
from xar_agent.errors import ConfigError
from xar_agent.jobs.findings import Finding, failed, missing, ok, warning

SHOWN = 5
"""Names in a list of files."""


def read_env(folder: Path) -> tuple[EnvSpec | None, Finding]:
    """The environment in a folder, and whether its ``env.toml`` is valid."""
    try:
        env = EnvSpec(folder)
        for preset in env.file.preset.values():
            _ = preset.memory_mib
    except ConfigError as error:
        return None, failed("env.toml", error.message, "docs/write-an-environment.md explains every key")
    if not env.file.preset:
        return None, missing("env.toml", "it has no preset", "add a table [preset.default]")
    return env, ok("env.toml", f"valid; presets {', '.join(env.file.preset)}")


def check_files(env: EnvSpec, preset: str) -> Iterator[Finding]:
    """Named files are there, patterns match, nothing is both editable and protected."""
    yield check_named(env, preset)
    files = sorted(p.relative_to(env.repo).as_posix() for p in env.repo.rglob("*") if is_source(p))
    yield check_globs("editable", env.file.editable, files)
    yield check_globs("protected", env.file.protected, files)
    yield check_overlap(env, files)
    if (env.folder / FILE_NAME).exists():
        yield check_menu(env)
    yield check_readme(env.folder)


def is_source(path: Path) -> bool:
    """A file of the repository, not something that a run left."""
    return path.is_file() and "__pycache__" not in path.parts


def check_named(env: EnvSpec, preset: str) -> Finding:
    """Every file that ``env.toml`` names."""
    file = env.file
    programs = {env.repo / words[0] for words in (file.train, file.smoke) if words}
    trusted = [*file.evaluate, file.worker, file.preset[preset].prepare or file.prepare]
    absent = sorted(
        path.relative_to(env.folder).as_posix()
        for path in (*programs, *(env.folder / name for name in trusted))
        if not path.is_file()
    )
    empty = [name for name in ("train", "smoke", "evaluate") if not getattr(file, name)]
    if empty:
        return missing("files", f"env.toml names no program under {', '.join(empty)}", "name one")
    if absent:
        return missing("files", f"env.toml names {listed(absent)}", f"write them in {env.folder}, or correct env.toml")
    return ok("files", f"{len(programs)} in repo/ and {', '.join(trusted)} are there")


def check_globs(key: str, globs: list[str], files: list[str]) -> Finding:
    """Each pattern matches a file of the repository."""
    if not globs:
        return missing(key, f"env.toml has no pattern under {key}", "name at least one file")
    idle = [glob for glob in globs if not any(matches(name, [glob]) for name in files)]
    if idle:
        return failed(key, f"{listed(idle)} matches no file of repo/", f"correct or remove it under {key} in env.toml")
    return ok(key, listed([name for name in files if matches(name, globs)]))


def check_overlap(env: EnvSpec, files: list[str]) -> Finding:
    """No file is under both lists."""
    both = [name for name in files if matches(name, env.file.editable) and matches(name, env.file.protected)]
    if both:
        return failed("rules", f"{listed(both)}: both editable and protected", "take it out of one list in env.toml")
    neither = [n for n in files if not matches(n, env.file.editable) and not matches(n, env.file.protected)]
    if neither:
        advice = "a patch may not change them, but training may: name them under protected"
        return warning("rules", f"{listed(neither)}: neither editable nor protected", advice)
    return ok("rules", "every file is either editable or protected")


def check_menu(env: EnvSpec) -> Finding:
    """The knob menu fits the repository."""
    try:
        knobs = read_knobs(env)
    except ConfigError as error:
        return failed("knobs.toml", error.message, "docs/environment-contract.md, The knob menu")
    return ok("knobs.toml", listed([knob.name for knob in knobs]))


def check_readme(folder: Path) -> Finding:
    """A person can read what this is."""
    if not (folder / "README.md").is_file():
        return missing(
            "README", f"there is no {folder / 'README.md'}", "say what it is, what a run costs, how noisy it is"
        )
    return ok("README", "is there")


def listed(names: list[str]) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
