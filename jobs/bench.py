"""Everything that a run measures with: the environment, its data, its base tree, and sandboxes over clean checkouts."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from xar_agent.envs.spec import EnvSpec, Preset
from xar_agent.errors import PatchRefused
from xar_agent.jobs.base import make_base
from xar_agent.jobs.data import DataSet, PrepareProgress, prepare_data
from xar_agent.jobs.job_plan import QUIET_PYTHON
from xar_agent.jobs.limits import check_clock, limits_of
from xar_agent.jobs.machine import machine_for
from xar_agent.jobs.packages import Supplies, supplies_for
from xar_agent.jobs.tokens import TokenText
from xar_agent.sandbox import files, probe, tree
from xar_agent.sandbox.gpus import machine_gpus, require_gpus
from xar_agent.sandbox.protocol import WORKSPACE, Bind, Patch, SandboxSpec
from xar_agent.sandbox.tree import Manifest
from xar_agent.store import store_errors

WORKER = "/xar/worker.py"
EVALUATOR = "/xar/evaluator"
"""Folder with the evaluator's files."""
VALIDATION = "/xar/validation"


@dataclass(frozen=True)
class Bench:
    """What every measurement of a run shares."""

    env: EnvSpec
    preset_name: str
    backend: str
    data: DataSet
    run_dir: Path
    git_store: Path
    """Git objects of this run: the base and every tree that was tested."""
    base_tree: str
    protected: Manifest
    """Protected files of the base, as every checkout must have them."""
    python: str
    """Interpreter of every program in a sandbox."""
    runtime: str = ""
    """Python and torch of the image; empty where programs run this machine's own."""
    image: str | None = None
    """Container image of every sandbox, with a device or without; None where the back end has no images."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the devices that are leased for the work under way; see ``leased``."""
    supplies: Supplies = Supplies()
    """Packages and models that every sandbox sees."""

    @property
    def preset(self) -> Preset:
        """The size that is measured."""
        return self.env.preset(self.preset_name)

    @property
    def machine(self) -> str:
        """This machine with the devices that the preset has here: scores of different ones do not compare."""
        return machine_for(self.preset, self.runtime, self.gpus)

    @property
    def scratch(self) -> Path:
        """Host folder for checkouts and sockets; emptied whenever a driver takes the run over."""
        return self.run_dir / "scratch"

    @property
    def launcher(self) -> Path:
        """The host's own start of training programs."""
        return Path(__file__).resolve().with_name("launch.py")

    @cached_property
    def train_tokens(self) -> TokenText:
        """The training text, opened once.

        Raises:
            DataUnavailable: it cannot be read.
        """
        return self.data.train_tokens()

    @contextmanager
    def leased(self, cancel: threading.Event | None = None) -> Iterator[Bench]:
        """This bench with the devices that the preset needs, for one piece of work; the same one where it needs none.

        Whoever may wait for another's measurement takes the lease first: nobody waits for a device with a lock in hand.

        Raises:
            CapabilityMissing: this machine has not so many.
            Interrupted: it was cancelled while it waited for its turn.
        """
        if len(self.gpus) == self.preset.gpus:
            yield self
            return
        opened = {"train_tokens": self.train_tokens} if self.preset.data == "stream" else {}
        with machine_gpus().lease(self.preset.gpus, cancel=cancel) as devices:
            bench = replace(self, gpus=tuple(device.uuid for device in devices))
            vars(bench).update(opened)  # once for all of them
            yield bench

    @contextmanager
    def scratch_folder(self, name: str) -> Iterator[Path]:
        """A new folder that is gone afterwards, whatever was written into it."""
        with store_errors(self.scratch, "write to"):
            self.scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))
        try:
            yield folder
        finally:
            files.remove_tree(folder)

    def checkout(self, tree_hash: str, folder: Path) -> Path:
        """A clean workspace of a tree below a folder, protected files checked.

        Raises:
            PatchRefused: the tree's protected files are not those of the environment.
            StoreError: it cannot be written.
        """
        workspace = self.workspace_in(folder)
        with store_errors(workspace, "write"):
            tree.checkout(self.git_store, tree_hash, workspace)
        self.check_protected(workspace)
        return workspace

    def workspace_in(self, folder: Path) -> Path:
        """Where ``checkout`` puts the workspace."""
        return folder / "workspace"

    def inside(self, folder: Path) -> str:
        """What a program in a sandbox over the workspace in this folder calls the workspace."""
        return str(self.workspace_in(folder).absolute()) if self.backend == "process" else WORKSPACE

    def check_protected(self, workspace: Path) -> None:
        """Compare a workspace's protected files with the host's list.

        Raises:
            PatchRefused: one differs; the message names it.
        """
        differences = tree.verify_manifest(workspace, self.protected)
        if differences:
            raise PatchRefused(f"protected file {differences[0]}")

    def add_patch(self, patch: Patch) -> str:
        """Tree hash of the base with the patch, now in the run's store.

        Raises:
            PatchRefused: it does not apply to this base, or touches what is not editable.
        """
        if patch.base != self.base_tree:
            raise PatchRefused("the patch was made against another version of the environment", "make it again")
        tree_hash = tree.apply_patch(self.git_store, self.base_tree, patch.diff)
        self.diff(tree_hash)
        return tree_hash

    def diff(self, tree_hash: str) -> Patch:
        """What a tree changes, checked against what may be changed.

        Raises:
            PatchRefused: it touches what is not editable, or holds what a patch may not hold.
        """
        patch = tree.diff(self.git_store, self.base_tree, tree_hash)
        tree.protect(patch.files, self.env.file.editable, self.env.file.protected)
        return patch

    def workspace_spec(self, workspace: Path, *, name: str = "agent") -> SandboxSpec:
        """The agent's sandbox: its workspace and Python, no data, no validation text, no sockets, no network."""
        supplied = self.supplies.environment(self.backend, shell=True)
        return self.sandbox_spec(workspace, name=name, environment=supplied)

    def sandbox_spec(
        self,
        workspace: Path,
        *,
        name: str,
        binds: tuple[Bind, ...] = (),
        writable: bool = True,
        environment: Mapping[str, str] | None = None,
        gpus: bool = False,
    ) -> SandboxSpec:
        """A sandbox with this preset's limits and nothing of ours but the binds and, with ``gpus``, the leased devices.

        Raises:
            RuntimeError: it needs devices, and there is no lease on them.
        """
        if gpus and len(self.gpus) != self.preset.gpus:
            raise RuntimeError(f"a {name} sandbox needs a lease on {self.preset.gpus} GPUs")
        return SandboxSpec(
            workspace=workspace,
            workspace_writable=writable,
            binds=(*binds, *self.supplies.binds),
            environment={**QUIET_PYTHON, **self.supplies.environment(self.backend), **(environment or {})},
            limits=limits_of(self.preset),
            gpus=self.gpus if gpus else (),
            image=self.image,
            name=name,
        )


def open_bench(
    env: EnvSpec,
    preset_name: str,
    backend: str,
    run_dir: Path,
    *,
    image: str | None = None,
    source: str | None = None,
    on_progress: Callable[[PrepareProgress], None] | None = None,
) -> Bench:
    """Everything that measuring in this run needs; the data set is prepared now if the cache lacks it.

    Args:
        env: the environment.
        preset_name: its size.
        backend: sandbox by name; "auto" becomes the one that works here.
        run_dir: the run's folder, held by this process.
        image: container image, where the back end has images; None: its default one.
        source: raw material of the data set, if the user has it: a path, or "hub:OWNER/DATASET".
        on_progress: hears how far the preparation is.

    Raises:
        UnknownName: there is no such preset.
        ConfigError: the preset sets a constant that the repository lacks, or its clock has nobody who keeps it.
        CapabilityMissing: no sandbox works here, or the preset needs GPUs that are not here.
        ServiceMissing: this machine lacks a package or a model that the environment names.
        DataUnavailable: the data set could not be prepared.
        StoreError: the run's folder cannot be written.
    """
    preset = env.preset(preset_name)
    check_clock(preset)
    gpus = preset.gpus
    info = probe(backend, image=image, gpus=gpus > 0)
    require_gpus(info, gpus)
    supplies = supplies_for(env, info, image=info.image or None, on_progress=on_progress)
    data = prepare_data(env, preset_name, source=source, on_progress=on_progress)
    store = run_dir / "trees"
    scratch = run_dir / "scratch"
    with store_errors(run_dir, "write to"):
        files.remove_tree(scratch)
        scratch.mkdir(parents=True)
        base, protected = make_base(env, preset_name, store, scratch)
    env = env.at(preset_name)
    found = info.image or None
    name = info.backend
    return Bench(
        env,
        preset_name,
        name,
        data,
        run_dir,
        store,
        base,
        protected,
        info.python,
        info.runtime,
        found,
        supplies=supplies,
    )
