"""The image: what its Dockerfile may say, how it is built, and what it holds where an engine has it."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from xar_agent.errors import ConfigError
from xar_agent.sandbox.build import FOLDER, BuildFailed, show, write_context

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = FOLDER / "Dockerfile.gpu"
ENGINE = ROOT / "tests" / "engine" / "engine.py"

InImage = Callable[..., str]


def instructions() -> list[tuple[str, str]]:
    """Each instruction with the rest of its line, continuation lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest) for word, rest in pairs]


def test_the_dockerfile_is_one_that_the_legacy_builder_understands() -> None:
    assert "syntax=" not in DOCKERFILE.read_text()
    known = {"ARG", "FROM", "USER", "RUN", "COPY", "ENV", "LABEL", "WORKDIR", "ENTRYPOINT", "CMD"}
    for word, rest in instructions():
        assert word in known
        flags = re.match(r"(--\S+\s+)*", rest)
        assert flags is not None
        assert {flag.split("=")[0] for flag in flags[0].split()} <= ({"--from"} if word == "COPY" else set())
        assert "<<" not in rest
        assert not re.search(r"\$\{?(TARGET|BUILD)(PLATFORM|ARCH|OS)", rest)


def test_any_base_can_be_given_and_the_default_user_is_an_ordinary_one() -> None:
    words = instructions()
    assert words[0] == ("ARG", "BASE=nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04")
    assert words[1][1].startswith("${BASE} ")
    last_stage = words[max(i for i, (word, _) in enumerate(words) if word == "FROM") :]
    assert [rest for word, rest in last_stage if word == "USER"] == ["1000:1000"]
    assert ("ENTRYPOINT", "[]") in last_stage


def test_nothing_in_the_image_is_named_like_a_secret() -> None:
    text = DOCKERFILE.read_text().lower()
    assert "docker.sock" not in text
    names = [
        part.split("=")[0] for word, rest in instructions() if word in {"ARG", "ENV"} for part in shlex.split(rest)
    ]
    assert names
    assert [name for name in names if re.search("key|token|secret|passw|credential", name, re.IGNORECASE)] == []


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the repository")
@pytest.mark.parametrize(("kind", "extra"), [("cpu", "train"), ("gpu", "gpu")])
def test_the_image_has_what_the_extra_asks_for_each_pinned(kind: str, extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {need.name: need for need in map(Requirement, project["optional-dependencies"][extra])}
    lines = (FOLDER / f"requirements-{kind}.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned.keys() == asked.keys()
    for name, version in pinned.items():
        assert version in asked[name].specifier
        exact = [one.version for one in asked[name].specifier if one.operator == "=="]
        assert exact in ([], [version])


def test_the_build_sees_requirements_and_wheels_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "torch-1-py3-none-any.whl").write_bytes(b"wheel")
    (tmp_path / "key.txt").write_text("secret")
    context = io.BytesIO()
    write_context(context, tmp_path)
    context.seek(0)
    with tarfile.open(fileobj=context) as tar:
        assert sorted(tar.getnames()) == [
            "Dockerfile.gpu",
            "sandbox/image/requirements-cpu.txt",
            "sandbox/image/requirements-gpu.txt",
            "sandbox/image/wheelhouse/torch-1-py3-none-any.whl",
        ]
        assert all(entry.isreg() and entry.uid == 0 for entry in tar)


def test_a_wheelhouse_without_wheels_is_said_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no wheels in"):
        write_context(io.BytesIO(), tmp_path)


def test_a_failed_build_tells_its_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    events = [{"stream": f"\x1b[91mline {i}\x1b[0m\n"} for i in range(50)]
    events += [{"stream": "Step 5/20 : RUN " + 5000 * "x"}, {"error": "pip returned 1"}]
    with pytest.raises(BuildFailed) as caught:
        show(events)
    said = caught.value.message.splitlines()
    assert "line 49" in said
    assert "line 20" not in said
    assert said[-1] == "pip returned 1"
    assert max(map(len, said)) < 300
    assert "line 0" in capsys.readouterr().err


def test_without_an_engine_the_build_exits_3_and_says_where_it_looked(tmp_path: Path) -> None:
    done = build("cpu", env={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    assert done.returncode == 3
    assert f"{tmp_path}/none.sock" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_test_engine_is_not_stopped_where_none_was_started(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = subprocess.run([sys.executable, ENGINE, "stop", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no engine was started" in done.stderr
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.docker
def test_a_wheel_that_is_missing_ends_the_build_with_pips_own_words(docker_image: str, tmp_path: Path) -> None:
    (tmp_path / "unrelated-1-py3-none-any.whl").write_bytes(b"")
    tag = "xar-agent-test:never"
    done = build("cpu", "--base", docker_image, "--tag", tag, "--wheelhouse", str(tmp_path), "--no-network")
    assert done.returncode == 1
    error = done.stderr[done.stderr.index("error: the image was not built") :]
    assert "No matching distribution found for torch" in error
    assert "Traceback" not in error
    assert done.stdout == ""


@pytest.mark.docker
def test_the_image_runs_the_environments_packages_and_git_as_an_ordinary_user(
    docker_cpu_image: str, in_image: InImage
) -> None:
    imports = "import getpass, os, numpy, tokenizers, torch"
    code = f"{imports}; print(os.getuid(), os.getgid(), getpass.getuser(), torch.ones(2).sum())"
    said = in_image(docker_cpu_image, "python3", "-c", code)
    assert re.fullmatch(r"1000 1000 \w+ tensor\(2\.\)\n", said)
    assert in_image(docker_cpu_image, "git", "--version").startswith("git version")


@pytest.mark.docker
def test_no_program_in_the_image_gives_its_caller_another_uid(docker_cpu_image: str, in_image: InImage) -> None:
    found = in_image(docker_cpu_image, "find", "/", "-xdev", "-type", "f", "-perm", "/6000", user="0")
    assert found == ""


@pytest.mark.docker
def test_the_image_holds_no_wheels_sources_or_settings_of_the_builder(
    docker_cpu_image: str, in_image: InImage, planted_key: str
) -> None:
    assert planted_key not in in_image(docker_cpu_image, "env")
    assert in_image(docker_cpu_image, "find", "/", "-xdev", "-name", "*.sock", user="0") == ""
    assert in_image(docker_cpu_image, "sh", "-c", "ls -d /build /workspace/* 2>/dev/null || true") == ""


def build(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The build command."""
    command = [sys.executable, "-m", "xar_agent.sandbox.build", *argv]
    return subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)


@pytest.fixture
def in_image() -> Iterator[InImage]:
    """``in_image(image, *argv, user=...)``: the output of a command in a container of its own, which must succeed."""
    from xar_agent.sandbox.engine import connect

    client = connect()
    made: list[str] = []

    def run(image: str, *argv: str, user: str | None = None) -> str:
        limits = client.create_host_config(
            network_mode="none", read_only=True, cap_drop=["ALL"], cap_add=["DAC_READ_SEARCH"]
        )
        container = client.create_container(
            image, list(argv), user=user, host_config=limits, labels={"xar-agent.test": "1"}
        )["Id"]
        made.append(container)
        client.start(container)
        code = client.wait(container, timeout=60)["StatusCode"]
        out: str = client.logs(container, stderr=False).decode()
        assert code == 0, client.logs(container).decode()
        return out

    yield run
    for container in made:
        client.remove_container(container, force=True, v=True)
    client.close()
