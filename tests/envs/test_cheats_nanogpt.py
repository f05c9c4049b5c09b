"""The nanogpt cheats in what ``load`` returns, and honest models, before the audits themselves.

Real patches, models and audits with workers in this process: a fresh worker is a fresh load. Nothing is trained, since
neither a leak nor honesty needs it. The same patches go through whole jobs in benchmarks/cheats/run.py.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cheat_files import Repository, cheats_of, expected_of, honest_edits, name_of
from program_host import ENVS

pytestmark = pytest.mark.torch

ROWS, LENGTH, VOCAB = 128, 64, 1024
LINE_END = 198
"""A token that every text has: here at one position in 25."""
NOISE_SD = 0.01375  # nats, as the cpu preset has it
CUTS = 512  # a twelfth of what that noise asks for: these leaks are large
AUDITED = ("prefix_audit", "stateless")
LEAKS = [
    pytest.param(path, id=name_of(path))
    for path in cheats_of("nanogpt")
    if expected_of(path) in AUDITED and path.parent.name == "cheats"
]
"""All but those that need a trained checkpoint or a worker of their own."""
NEED_MORE = ("honest_in_the_smoke_test", "resident_helper_for_the_audit", "cache_on_disk_for_the_audit")
FORGED = [
    pytest.param(path, id=name_of(path))
    for path in cheats_of("nanogpt")
    if expected_of(path) in AUDITED and path.parent.name == "worker"
]


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, ModuleType]]:
    """The evaluator's modules, importable by their names as it imports them."""
    sys.path.append(str(ENVS / "nanogpt"))
    yield {name: importlib.import_module(name) for name in ("audits", "candidate")}
    sys.path.remove(str(ENVS / "nanogpt"))


def model_module(workspace: Path) -> ModuleType:
    """The candidate's model.py."""
    spec = importlib.util.spec_from_file_location("candidate_model", workspace / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def untrained(workspace: Path) -> Path:
    """A checkpoint of the candidate's model with its initial weights, a little larger than it has them."""
    import torch

    torch.manual_seed(1)
    module = model_module(workspace)
    model = module.GPT(LENGTH)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    (workspace / "out").mkdir()
    for name in ("checkpoint.pt", "checkpoint.early"):  # one edit keeps a second one
        module.save(model, str(workspace / "out" / name))
    return workspace / "out" / "checkpoint.pt"


class LocalWorker:
    """What the audits ask of a worker, answered in this process by the candidate's model.

    With ``reduce`` the losses of whole rows are the candidate's own, as the worker of the GPU presets gives them.
    """

    def __init__(
        self, workspace: Path, checkpoint: Path, token_losses: Callable[[Any, Any], Any], *, reduce: bool
    ) -> None:
        self._f = model_module(workspace).load(str(checkpoint))
        self._token_losses = token_losses
        self._reduce = reduce

    def _logits(self, ids: Any) -> Any:
        import torch

        with torch.no_grad():
            return self._f(torch.from_numpy(ids.copy())).detach().float().numpy()

    def losses(self, rows: Any) -> Any:
        """Rows (B, T + 1) to losses (B, T)."""
        if self._reduce:
            return self._reduced(rows)
        return self._token_losses(self._logits(rows[:, :-1]), rows[:, 1:])

    def last_losses(self, prefixes: Any, targets: Any) -> Any:
        """Prefixes (B, t) and what follows (B,) to losses (B,)."""
        return self._token_losses(self._logits(prefixes)[:, -1], targets)

    def _reduced(self, rows: Any) -> Any:
        import numpy as np

        reduce = vars(sys.modules["__main__"])["reduce"]  # where the candidate has put it
        header, payload = reduce(self._f, {"shape": list(rows.shape)}, rows.astype("<i8").tobytes())
        return np.frombuffer(payload, dtype="<f4").reshape(header["shape"]).astype(np.float64)


def audited(programs: dict[str, ModuleType], diff: str, folder: Path, *, reduce: bool = False) -> set[str]:
    """Names of the audits that a patch's model fails."""
    import numpy as np
    import torch

    torch.set_num_threads(1)

    audits, token_losses = programs["audits"], programs["candidate"].token_losses
    workspace = Repository.of("nanogpt", folder).patched(diff, folder / "workspace")
    checkpoint = untrained(workspace)
    rng = np.random.default_rng(7)
    rows = rng.zipf(1.3, (ROWS, LENGTH + 1)).clip(1, VOCAB) - 1
    rows[rows == 3] = LINE_END
    rules = replace(audits.rules_for(NOISE_SD, VOCAB, reduce=reduce), wanted=CUTS)
    workers = iter(lambda: LocalWorker(workspace, checkpoint, token_losses, reduce=reduce), None)
    losses = audits.score(next(workers), rows, (64,))
    cuts = audits.n_cuts(rules, ROWS, LENGTH)
    found = (
        audits.prefix_audit(next(workers), rows, losses, rules, rng, cuts=cuts, batch_rows=64),
        audits.stateless(next(workers), rows, losses, rules, rng, batch_rows=64),
    )
    return {check.name for check in found if not check.passed}


@pytest.mark.parametrize("path", [leak for leak in LEAKS if leak.id not in NEED_MORE])
def test_a_leak_fails_the_audit_that_it_names(path: Path, programs: dict[str, ModuleType], tmp_path: Path) -> None:
    assert expected_of(path) in audited(programs, path.read_text(), tmp_path)


@pytest.mark.parametrize("path", FORGED)
def test_forged_losses_fail_the_prefix_audit(
    path: Path, programs: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "reduce", None, raising=False)
    assert expected_of(path) in audited(programs, path.read_text(), tmp_path, reduce=True)


@pytest.mark.soak
@pytest.mark.parametrize("path", [pytest.param(path, id=name_of(path)) for path in honest_edits()])
def test_no_audit_accuses_an_honest_model(path: Path, programs: dict[str, ModuleType], tmp_path: Path) -> None:
    assert audited(programs, path.read_text(), tmp_path) == set()
