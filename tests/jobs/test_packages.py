"""Packages from a wheelhouse and models from a hub cache reach every sandbox, read-only and offline."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from xar_agent.envs.spec import EnvSpec, load_env
from xar_agent.errors import ConfigError, ServiceMissing
from xar_agent.jobs.bench import Bench, open_bench
from xar_agent.jobs.evaluation import evaluate
from xar_agent.jobs.packages import offered_text
from xar_agent.jobs.training import TrainingPlan, train
from xar_agent.sandbox import open_sandbox

BACKENDS = [pytest.param("bubblewrap", marks=pytest.mark.bwrap), "process"]
SHADE = "VALUE = 41\n"


def make_wheel(folder: Path, name: str, modules: dict[str, str], requires: str = "") -> None:
    """A wheel as build tools make it: modules, metadata and the record of both."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (
        f"Requires-Dist: {requires}\n" if requires else ""
    )
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**modules, f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel}
    lines = [f"{info}/RECORD,,"]
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text.encode())}")
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": "\n".join(lines) + "\n"}.items():
            archive.writestr(path, text)


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheelhouse with a package, another that it needs, and one that would shadow the standard library."""
    folder = tmp_path / "wheels"
    make_wheel(folder, "xar_test_shade", {"xar_test_shade.py": "from xar_test_base import VALUE\n"}, "xar-test-base")
    make_wheel(folder, "xar_test_base", {"xar_test_base.py": SHADE, "json.py": "raise RuntimeError('shadowed')\n"})
    monkeypatch.setenv("XAR_WHEELHOUSE", str(folder))
    return folder


@pytest.fixture
def env(tmp_path: Path) -> EnvSpec:
    """The toy environment at a small size, with a package; its programs import it in training and in scoring."""
    folder = tmp_path / "envs" / "shaded"
    shutil.copytree(load_env("toy").folder, folder, ignore=shutil.ignore_patterns("__pycache__", "baselines"))
    edit(folder / "env.toml", "budget = 40960", "budget = 2048")
    edit(folder / "env.toml", "val_tokens = 8192", "val_tokens = 1024")
    edit(
        folder / "env.toml",
        "[preset.default]\n",
        '[wheels]\nrequirements = ["xar-test-shade==1.0"]\n\n[preset.default]\n',
    )
    edit(
        folder / "repo" / "model.py",
        "VOCAB_SIZE = 28",
        "import xar_test_shade\n\nVOCAB_SIZE = xar_test_shade.VALUE - 13",
    )
    return EnvSpec(folder)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def appended_by_the_worker(env: EnvSpec) -> EnvSpec:
    """The environment with a worker that does what the contract asks of a worker where there are packages."""
    worker = env.folder / "worker.py"
    edit(
        worker, "    sys.path.append(str(Path.cwd()))", '    sys.path += [os.environ["XAR_PACKAGES"], str(Path.cwd())]'
    )
    return EnvSpec(env.folder)


@pytest.fixture(params=BACKENDS)
def bench(request: pytest.FixtureRequest, env: EnvSpec, wheelhouse: Path, tmp_path: Path) -> Bench:
    """Ready to measure, its packages installed."""
    return open_bench(appended_by_the_worker(env), "default", str(request.param), tmp_path / "run")


def test_training_and_scoring_import_a_package_and_what_it_needs(bench: Bench, tmp_path: Path) -> None:
    plan = TrainingPlan.of(bench, bench.base_tree, 1)
    trained = train(bench, plan, tmp_path / "train", log_path=tmp_path / "log")
    assert trained.failure is None
    assert trained.checkpoint is not None
    found = evaluate(bench, bench.base_tree, trained.checkpoint, tmp_path / "evaluate", split="val")
    assert found.failure is None


def test_the_agents_own_commands_import_it_too_and_nothing_can_be_added_to_it(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    with open_sandbox(bench.backend, bench.workspace_spec(tmp_path / "workspace")) as sandbox:
        seen = sandbox.exec([bench.python, "-c", "import xar_test_shade; print(xar_test_shade.VALUE)"])
        script = "import os; open(os.environ['XAR_PACKAGES'] + '/new.py', 'w')"
        write = sandbox.exec([bench.python, "-c", script])
    assert seen.output.strip() == "41"
    if sandbox.info.capabilities.readonly:
        assert write.exit_code != 0


def test_packages_are_installed_once(bench: Bench, env: EnvSpec, wheelhouse: Path, tmp_path: Path) -> None:
    shutil.rmtree(wheelhouse)
    again = open_bench(EnvSpec(env.folder), "default", bench.backend, tmp_path / "another")
    assert again.supplies == bench.supplies


def test_a_missing_wheel_is_named_with_the_command_that_gets_it(env: EnvSpec, wheelhouse: Path, tmp_path: Path) -> None:
    (wheelhouse / "xar_test_base-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ServiceMissing) as caught:
        open_bench(env, "default", "process", tmp_path / "run")
    assert "xar-test-base" in caught.value.message
    assert f"pip download --only-binary :all: --dest {wheelhouse} xar-test-shade==1.0" in caught.value.hint
    shutil.rmtree(wheelhouse)
    with pytest.raises(ServiceMissing, match="no wheelhouse"):
        open_bench(env, "default", "process", tmp_path / "run")


def test_a_package_without_a_version_is_refused(env: EnvSpec, wheelhouse: Path, tmp_path: Path) -> None:
    edit(env.folder / "env.toml", "xar-test-shade==1.0", "xar-test-shade>=1")
    with pytest.raises(ConfigError, match="not pinned"):
        open_bench(EnvSpec(env.folder), "default", "process", tmp_path / "run")


def test_the_agent_is_told_of_packages_and_models_and_of_nothing_where_there_are_none(env: EnvSpec) -> None:
    assert "xar-test-shade==1.0" in offered_text(env.file)
    assert "one/model" in offered_text(env.file.model_copy(update={"models": ["one/model"]}))
    assert offered_text(load_env("toy").file) == ""


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A hub cache with two models, laid out as the hub's client does it: snapshots of links to blobs."""
    folder = tmp_path / "hub"
    for name in ("one", "two"):
        model = folder / f"models--owner--{name}"
        (model / "blobs").mkdir(parents=True)
        (model / "blobs" / "b10b").write_text(json.dumps({"model": name}))
        (model / "snapshots" / "abc").mkdir(parents=True)
        (model / "snapshots" / "abc" / "config.json").symlink_to("../../blobs/b10b")
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("abc")
    return folder


def with_models(env: EnvSpec, names: str) -> EnvSpec:
    """The environment with models instead of packages."""
    edit(env.folder / "env.toml", '[wheels]\nrequirements = ["xar-test-shade==1.0"]\n', "")
    edit(env.folder / "env.toml", 'train = ["train.py"]', f'models = {names}\ntrain = ["train.py"]')
    return EnvSpec(env.folder)


@pytest.mark.bwrap
@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "XAR_MODELS"])
def test_a_named_model_can_be_read_inside_and_no_other(
    env: EnvSpec, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(hub))
    bench = open_bench(with_models(env, '["owner/one"]'), "default", "bubblewrap", tmp_path / "run")
    (tmp_path / "workspace").mkdir()
    with open_sandbox("bubblewrap", bench.workspace_spec(tmp_path / "workspace")) as sandbox:
        read = sandbox.exec(["sh", "-c", "cat $HF_HUB_CACHE/models--owner--one/snapshots/abc/config.json"])
        names = sandbox.exec(["sh", "-c", "ls $HF_HUB_CACHE; echo offline $HF_HUB_OFFLINE"])
        write = sandbox.exec(["sh", "-c", "echo > $HF_HUB_CACHE/models--owner--one/new"])
    assert json.loads(read.output) == {"model": "one"}
    assert names.output.split() == ["models--owner--one", "offline", "1"]
    assert write.exit_code != 0


def test_a_model_that_is_not_there_is_named_with_the_command_that_gets_it(
    env: EnvSpec, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    with pytest.raises(ServiceMissing, match="owner/three") as caught:
        open_bench(with_models(env, '["owner/one", "owner/three"]'), "default", "process", tmp_path / "run")
    assert "hf download owner/three" in caught.value.hint


def test_a_model_whose_download_was_cut_off_is_refused(
    env: EnvSpec, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    (hub / "models--owner--one" / "blobs" / "b10b").unlink()
    with pytest.raises(ServiceMissing, match="cut off"):
        open_bench(with_models(env, '["owner/one"]'), "default", "process", tmp_path / "run")
