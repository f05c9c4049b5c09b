"""The tree that patches are made against: the environment's repository with the constants of one preset."""

from __future__ import annotations

import shutil
from pathlib import Path

from xar_agent.envs.knobs import with_constants
from xar_agent.envs.spec import Constant, EnvSpec
from xar_agent.errors import ConfigError
from xar_agent.sandbox import files, tree
from xar_agent.sandbox.tree import Manifest


def make_base(env: EnvSpec, preset_name: str, store: Path, scratch: Path) -> tuple[str, Manifest]:
    """Put a preset's base into a run's store; its hash, and its protected files.

    Args:
        env: the environment.
        preset_name: whose constants.
        store: of git objects.
        scratch: folder for the time being.

    Raises:
        ConfigError: the preset sets a constant that the repository lacks; names file and constant.
    """
    repo = env.repo
    if constants := env.preset(preset_name).constants:
        repo = scratch / "repo"
        shutil.copytree(env.repo, repo, symlinks=True)
        set_constants(repo, constants)
    base = tree.make_base(repo, store)
    tree.checkout(store, base, scratch / "base")
    protected = tree.manifest(scratch / "base", env.file.protected)
    for name in ("repo", "base"):
        files.remove_tree(scratch / name)
    return base, protected


def set_constants(repo: Path, constants: dict[str, dict[str, Constant]]) -> None:
    """Write a preset's literals into a copy of the repository.

    Raises:
        ConfigError: a file or a constant is not there; names it.
    """
    for name, literals in constants.items():
        path = repo / name
        if not path.resolve().is_relative_to(repo.resolve()) or not path.is_file():
            raise ConfigError(f"env.toml: constants: the repository has no {name}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"env.toml: constants: {name} is not text: {error}") from error
        path.write_text(with_constants(text, literals, file=name), encoding="utf-8")
