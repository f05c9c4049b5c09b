"""The planted cheats and the honest edits as files, and patched copies of a repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.sandbox import tree

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "benchmarks" / "cheats"
ENVIRONMENTS = ("nanogpt", "toy")


def cheats_of(env: str) -> list[Path]:
    """Every planted cheat of an environment, those for other presets' settings included."""
    return sorted((load_env(env).folder / "cheats").rglob("*.diff"))


def honest_edits() -> list[Path]:
    """Every honest edit of the nanogpt environment."""
    return sorted((SUITE / "honest").glob("*.diff"))


def name_of(path: Path) -> str:
    """Its name as a test's id: with the folder where that says something."""
    return path.stem if path.parent.name in ("cheats", "honest", "blind") else f"{path.parent.name}/{path.stem}"


def expected_of(path: Path) -> str:
    """The check that a cheat's first line names."""
    first = path.read_text().splitlines()[0]
    assert first.startswith("# caught by: "), path
    return first.removeprefix("# caught by: ")


@dataclass(frozen=True, slots=True)
class Repository:
    """An environment's repository in a store of its own, from which patched copies are made."""

    env: EnvSpec
    store: Path
    base: str

    @classmethod
    def of(cls, name: str, folder: Path) -> Repository:
        """The repository of that environment, stored in a new folder."""
        env = load_env(name)
        return cls(env, folder / "trees", tree.make_base(env.repo, folder / "trees"))

    def patched(self, diff: str, workspace: Path) -> Path:
        """A workspace with the diff applied, as the product does it.

        Raises:
            PatchRefused: the diff may not be applied.
        """
        found = tree.apply_patch(self.store, self.base, diff)
        changed = tree.diff(self.store, self.base, found).files
        tree.protect(changed, self.env.file.editable, self.env.file.protected)
        tree.checkout(self.store, found, workspace)
        return workspace
