"""One contract for all back ends: ``box`` is a started sandbox, ``open_box`` makes others."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from backends import BACKENDS
from scan import OpenBox

from xar_agent.sandbox import Sandbox, SandboxSpec, open_sandbox

pytest.register_assert_rewrite("assault")  # before any test imports it


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a back end, each in turn; containers are of the smallest image."""
    name: str = request.param
    if name == "docker":
        monkeypatch.setenv("XAR_IMAGE", request.getfixturevalue("docker_image"))
    return name


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The host's side of the workspace."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def open_box(backend: str, workspace: Path) -> Iterator[OpenBox]:
    """``open_box(**spec)``: a started sandbox over the workspace, closed after the test."""
    with ExitStack() as stack:

        def start(**spec: Any) -> Sandbox:
            return stack.enter_context(open_sandbox(backend, SandboxSpec(**{"workspace": workspace, **spec})))

        yield start


@pytest.fixture
def box(open_box: OpenBox) -> Sandbox:
    """A started sandbox with the usual limits."""
    return open_box()


@pytest.fixture
def marker() -> str:
    """Seconds to sleep that nobody else sleeps: how a test finds its own processes."""
    return f"7{secrets.randbelow(10**6):06d}.{secrets.randbelow(10**9):09d}"
