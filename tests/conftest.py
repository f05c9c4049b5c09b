"""Shared fixtures: a home, cache and runs folder for each test; where a part is missing a test says why it is skipped.

``XAR_REQUIRE_BWRAP=1`` (``_TORCH``, ``_MODEL``, ``_DOCKER``, ``_GPU``) turns the skip into a failure: a machine that is
set up for a part must not skip it silently.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

PLANTED_KEY = "sk-planted-0123456789abcdefXARTEST"
"""In the environment of every test under two names; no file, log or isolating sandbox may ever show it."""

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every command under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

USER_HOME = Path.home()
USER_CACHE = Path(os.environ.get("XAR_CACHE") or USER_HOME / ".cache" / "xar-agent")
LOCAL_MODEL = os.environ.get("XAR_LOCAL_MODEL")
PROVIDER_SETTINGS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")


@cache
def missing_bwrap() -> str:
    """Why bubblewrap cannot be used here; empty when it can."""
    from xar_agent.errors import XarError
    from xar_agent.sandbox import probe

    try:
        probe("bubblewrap")
    except XarError as error:
        return error.message
    return ""


@cache
def missing_torch() -> str:
    """Why torch cannot be used here; empty when it can."""
    names = [name for name in ("torch", "numpy", "tokenizers") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(names)} (pip install 'xar-agent[train]')" if names else ""


@cache
def missing_model() -> str:
    """Why the embedded model cannot be used here; empty when it can."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "xllamacpp is not installed (pip install 'xar-agent[local]')"
    if LOCAL_MODEL and Path(LOCAL_MODEL).is_file():
        return ""
    found = any((USER_CACHE / "models").glob("**/*.gguf"))
    return "" if found else f"no model file under {USER_CACHE / 'models'} (xar-agent models fetch)"


TEST_IMAGE = "xar-agent-test:base"
"""A small Debian with Python and git: `make engine-images` makes it, and ``xar-agent:cpu`` upon it."""


@cache
def docker_images() -> tuple[str, ...]:
    """Names of the images that the engine has.

    Raises:
        XarError: no engine answers.
    """
    from xar_agent.sandbox.engine import connect

    with contextlib.closing(connect()) as client:
        return tuple(name for image in client.images() for name in image["RepoTags"] or ())


@cache
def missing_docker() -> str:
    """Why tests cannot run commands in containers here; empty when they can. The engine is asked itself."""
    from xar_agent.errors import XarError
    from xar_agent.sandbox.images import CPU_IMAGE

    try:
        found = docker_images()
    except XarError as error:
        return error.message
    known = {TEST_IMAGE, CPU_IMAGE}
    return "" if known & set(found) else f"the engine has neither {' nor '.join(sorted(known))} (make engine-images)"


@cache
def missing_gpu() -> str:
    """Why no GPU can be used here; empty when one can. The driver is asked."""
    from xar_agent.errors import XarError
    from xar_agent.sandbox.gpus import machine_gpus

    try:
        found = machine_gpus().source()
    except XarError as error:
        return error.message
    return "" if found.devices else "; ".join(found.left_out) or "this machine has no GPU, or no driver for it"


MISSING: dict[str, Callable[[], str]] = {
    "bwrap": missing_bwrap,
    "torch": missing_torch,
    "model": missing_model,
    "docker": missing_docker,
    "gpu": missing_gpu,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test whose part is missing, or fail it where this machine must have the part."""
    for name, missing in MISSING.items():
        if item.get_closest_marker(name) is None:
            continue
        reason = missing()
        if reason and os.environ.get(f"XAR_REQUIRE_{name.upper()}") == "1":
            pytest.fail(f"{name} is required here: {reason}", pytrace=False)
        if reason:
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def isolated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder with a fresh home, cache and runs folder; no provider settings, and the planted key."""
    root = tmp_path_factory.mktemp("isolated")
    for name in list(os.environ):
        if name in PROVIDER_SETTINGS or (name.startswith("XAR_") and not name.startswith("XAR_REQUIRE_")):
            monkeypatch.delenv(name)
    for name, folder in {"HOME": "home", "XAR_CACHE": "cache", "XAR_RUNS": "runs"}.items():
        (root / folder).mkdir()
        monkeypatch.setenv(name, str(root / folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("PLANTED_API_KEY", PLANTED_KEY)
    monkeypatch.setenv("HARMLESS_LOOKING", PLANTED_KEY)
    if request.node.get_closest_marker("docker") is None:  # what "auto" chooses must not depend on the machine
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    # A test that starts training must not take both cores of a small machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return root


@pytest.fixture
def home(isolated: Path) -> Path:
    """This test's HOME."""
    return isolated / "home"


@pytest.fixture
def cache_dir(isolated: Path) -> Path:
    """This test's XAR_CACHE: empty."""
    return isolated / "cache"


@pytest.fixture
def runs_dir(isolated: Path) -> Path:
    """This test's XAR_RUNS: empty."""
    return isolated / "runs"


@pytest.fixture
def planted_key() -> str:
    """The secret in this test's environment, under a telling and an innocent name."""
    return PLANTED_KEY


@pytest.fixture
def docker_image() -> str:
    """Name of the smallest image that commands can run in; mark the test ``docker``."""
    from xar_agent.sandbox.images import CPU_IMAGE

    return TEST_IMAGE if TEST_IMAGE in docker_images() else CPU_IMAGE


@pytest.fixture
def docker_cpu_image() -> str:
    """Name of the image with torch; mark the test ``docker``."""
    from xar_agent.sandbox.images import CPU_IMAGE

    if CPU_IMAGE not in docker_images():
        reason = f"the engine has no {CPU_IMAGE} (make image-cpu)"
        (pytest.fail if os.environ.get("XAR_REQUIRE_DOCKER") == "1" else pytest.skip)(reason)
    return CPU_IMAGE


@pytest.fixture
def user_cache(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's real cache as XAR_CACHE: for tests that need a prepared data set and must not prepare it each time."""
    USER_CACHE.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("XAR_CACHE", str(USER_CACHE))
    return USER_CACHE


@pytest.fixture
def model_file(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded model's file, also named in XAR_LOCAL_MODEL; mark the test ``model``."""
    found = [Path(LOCAL_MODEL)] if LOCAL_MODEL else sorted((USER_CACHE / "models").glob("**/*.gguf"))
    if not found:
        pytest.skip(missing_model())
    monkeypatch.setenv("XAR_LOCAL_MODEL", str(found[0]))
    return found[0]


def files_with(folder: Path, text: str) -> list[Path]:
    """Every file under the folder that holds the text as bytes: how a test looks for a leaked key."""
    needle = text.encode()
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and needle in path.read_bytes()]


@pytest.fixture
def leaks() -> Callable[[Path, str], list[Path]]:
    """``leaks(folder, text)``: files under the folder that hold the text."""
    return files_with
