"""``xar-agent doctor``: the truth about this machine, without a change, without a secret and in a few seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from xar_agent.agent.local_files import DEFAULT, known_model
from xar_agent.jobs.runs import RunStore
from xar_agent.sandbox import engine
from xar_agent.sandbox.leases import LeaseFolder

NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
READY = {**NO_ENGINE, "XAR_MODEL": "hosted_vllm/any", "XAR_SANDBOX": "process"}
"""With these, the toy environment can be worked on everywhere."""
SECRETS = {
    "OPENAI_API_KEY": "sk-planted-0123456789abcdef",
    "MY_LAB_TOKEN": "hunter2hunter2",
    "OPENAI_BASE_URL": "http://me:letmein99@127.0.0.1:1/v1",
}
DEAD_GROUP = "from xar_agent.sandbox import Limits, cgroup; print(*cgroup.make(Limits()).get('remove', ()))"
"""Makes control groups where it may, and leaves them."""


@contextmanager
def dead_engine(folder: Path) -> Iterator[str]:
    """Address of a socket that takes every call and answers none."""
    path = folder / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        yield f"unix://{path}"


def tree_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below with size and time of change."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def planted(temporary: Path, runs_dir: Path) -> list[Path]:
    """What a dead driver has left: a folder, and the checkouts of a run."""
    folder = temporary / "xar-sandbox-dead"
    (folder / "tmp").mkdir(parents=True)
    (folder / "lock").touch()
    os.utime(folder, (0, 0))
    with RunStore.create(runs_dir, "dead", {}) as store:
        scratch = store.dir / "scratch"
        (scratch / "job-1" / "workspace").mkdir(parents=True)
        (store.dir / "impl").mkdir()
        (store.dir / "impl" / "patch.diff").write_text("a result\n")
    return [folder, scratch]


def test_a_machine_that_can_work_is_ready(xar: Any) -> None:
    ended = xar("doctor", "--env", "toy", "--json", env=READY)
    assert ended.code == 0, ended
    found = ended.json
    assert (found["ready"], found["error"], found["used"]["sandbox"]) == (True, None, "process")
    assert set(found) == {
        "ready", "error", "hint", "engine", "images", "gpus", "bwrap", "cgroups", "model", "keys", "disk", "python",
        "leftovers", "used",
    }  # fmt: skip
    assert [image["name"] for image in found["images"]] == ["xar-agent:cpu", "xar-agent:gpu"]
    assert found["disk"]["runs"]["free_bytes"] > 0
    assert found["python"]["path"] == sys.executable


def test_the_table_has_a_row_for_each_thing(xar: Any) -> None:
    ended = xar("doctor", "--env", "toy", env=READY)
    assert ended.code == 0, ended
    labels = [line.split()[0] for line in ended.out.splitlines() if line and not line.startswith(" ")]
    wanted = "engine image GPUs bwrap cgroups embedded keys disk python leftovers What sandbox why model env ready"
    assert [label for label in labels if label != "image"] == [word for word in wanted.split() if word != "image"]
    assert "no socket at unix:///nowhere/docker.sock" in " ".join(ended.out.split())
    assert "make image-cpu" in ended.out


def test_secrets_are_named_and_never_shown(xar: Any, home: Path, planted_key: str) -> None:
    for words in (["doctor"], ["doctor", "--json"], ["doctor", "--clean"], ["doctor", "--debug"]):
        ended = xar(*words, env={**SECRETS, "DOCKER_HOST": "tcp://me:letmein99@127.0.0.1:1"})
        said = ended.out + ended.err
        assert planted_key not in said
        assert not any(secret in said for secret in (*SECRETS.values(), "letmein99")), words
    named = xar("doctor", "--json", env={**SECRETS, **NO_ENGINE}).json["keys"]
    assert named == ["MY_LAB_TOKEN", "OPENAI_API_KEY", "PLANTED_API_KEY"]


def test_a_dead_engine_costs_a_few_seconds(xar: Any, tmp_path: Path) -> None:
    with dead_engine(tmp_path) as address:
        began = time.monotonic()
        ended = xar("doctor", "--env", "toy", "--json", env={**READY, "DOCKER_HOST": address}, timeout_s=60)
        took_s = time.monotonic() - began
    assert ended.code == 0
    assert "does not answer" in ended.json["engine"]["why_not"]
    assert took_s < 20, "5 s of it for the engine; the rest is a loaded machine"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ssh://nowhere.invalid", "nonsense", "unix:///dev/null"])
def test_an_address_without_an_engine_is_told(xar: Any, address: str) -> None:
    found = xar("doctor", "--env", "toy", "--json", env={**READY, "DOCKER_HOST": address}).json
    assert found["engine"]["version"] == ""
    assert found["engine"]["why_not"]


def test_it_changes_nothing(xar: Any, planted: list[Path], temporary: Path, runs_dir: Path, home: Path) -> None:
    before = [tree_of(folder) for folder in (temporary, runs_dir, home)]
    first = xar("doctor", "--env", "toy", "--json", env=READY)
    ours = (str(temporary), str(runs_dir))  # groups and processes of tests beside this one are the machine's
    removable = [one["kind"] for one in first.json["leftovers"] if one["removable"] and one["name"].startswith(ours)]
    assert removable == ["folder", "scratch"]
    assert [tree_of(folder) for folder in (temporary, runs_dir, home)] == before


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"XAR_SANDBOX": "docker"}, "no Docker engine answers"),
        ({"XAR_MODEL": "openai/gpt-5-mini"}, "needs OPENAI_API_KEY"),
        ({"XAR_MODEL": "", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "does not answer"),
    ],
    ids=["no engine", "no key", "no server"],
)
def test_what_is_missing_is_told_with_exit_3(xar: Any, env: dict[str, str], words: str) -> None:
    ended = xar("doctor", "--env", "toy", "--json", env={**READY, **env})
    assert ended.code == 3
    assert words in ended.json["error"]
    assert ended.json["hint"]
    assert ended.err.startswith(f"error: {ended.json['error']}; ")


def test_without_the_embedded_models_file_it_says_how_to_get_it(xar: Any, cache_dir: Path) -> None:
    ended = xar("doctor", "--env", "toy", "--json", env={**READY, "XAR_MODEL": f"local/{DEFAULT}"})
    assert ended.code == 3
    assert ended.json["model"]["embedded_path"] == ""
    if ended.json["model"]["server_installed"]:
        assert "xar-agent models fetch" in ended.json["hint"]
        place = cache_dir / "models" / known_model(DEFAULT).file_name
        place.parent.mkdir()
        place.write_bytes(b"cut off")
        ended = xar("doctor", "--env", "toy", "--json", env={**READY, "XAR_MODEL": f"local/{DEFAULT}"})
        assert "has 7 bytes instead of" in ended.json["error"]


@pytest.mark.bwrap
def test_auto_without_an_engine_says_why_it_is_bubblewrap(xar: Any) -> None:
    used = xar("doctor", "--env", "toy", "--json", env={**READY, "XAR_SANDBOX": "auto"}).json["used"]
    assert used["sandbox"] == "bubblewrap"
    assert (
        used["why"]
        == "auto: not Docker, because no Docker engine answers: there is no socket at " + (NO_ENGINE["DOCKER_HOST"])
    )


@pytest.mark.docker
def test_auto_with_engine_and_image_is_docker(xar: Any, docker_image: str) -> None:
    host = {"DOCKER_HOST": os.environ.get("DOCKER_HOST", "")}
    found = xar("doctor", "--env", "toy", "--json", env={**READY, **host, "XAR_SANDBOX": "", "XAR_IMAGE": docker_image})
    assert found.code == 0, found
    (image,) = found.json["images"]
    assert (image["name"], image["n_bytes"] > 0) == (docker_image, True)
    assert found.json["engine"]["api"]
    assert (found.json["used"]["sandbox"], found.json["used"]["image"]) == ("docker", docker_image)
    missing = {**READY, **host, "XAR_SANDBOX": "docker", "XAR_IMAGE": "xar-agent-test:missing"}
    ended = xar("doctor", "--env", "toy", "--json", env=missing)
    assert (ended.code, ended.json["images"][0]["n_bytes"]) == (3, None)


def test_clean_removes_what_dead_runs_left_and_says_so(xar: Any, planted: list[Path], runs_dir: Path) -> None:
    living = RunStore.create(runs_dir, "living", {})
    with living:
        kept = living.dir / "scratch" / "job-1"
        kept.mkdir(parents=True)
        ended = xar("doctor", "--clean", env=NO_ENGINE)
        assert ended.code == 0, ended
        assert kept.is_dir()
    assert not any(path.exists() for path in planted)
    assert (runs_dir / "dead" / "impl" / "patch.diff").read_text() == "a result\n"
    lines = ended.out.splitlines()
    assert f"removed folder {planted[0]}: nobody holds its lock" in lines
    assert f"removed scratch {planted[1]}: no driver holds its run" in lines
    assert any(line.startswith("containers were not looked for: ") for line in lines)
    again = xar("doctor", "--clean", env=NO_ENGINE)
    assert again.code == 0
    assert not any(str(path) in again.out for path in planted)


def test_clean_speaks_json(xar: Any, planted: list[Path]) -> None:
    done = xar("doctor", "--clean", "--json", env=NO_ENGINE).json
    assert set(done) == {"removed", "left", "failed"}
    assert {str(path) for path in planted} <= {one["name"] for one in done["removed"]}
    assert done["failed"] == []


def test_what_cannot_be_removed_is_told_with_exit_1(xar: Any, planted: list[Path]) -> None:
    immutable = subprocess.run(["chattr", "+i", planted[1] / "job-1"], capture_output=True, check=False)
    if immutable.returncode != 0:
        pytest.skip("nothing can be made that root may not remove")
    try:
        ended = xar("doctor", "--clean", env=NO_ENGINE)
    finally:
        subprocess.run(["chattr", "-i", planted[1] / "job-1"], check=True)
    assert ended.code == 1
    assert any(line.startswith(f"could not remove scratch {planted[1]}: ") for line in ended.out.splitlines())
    assert not planted[0].exists()


def test_a_driver_at_work_beside_it_loses_nothing(xar: Any, make_patch: Callable[[str, str], Path]) -> None:
    patch = make_patch("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")
    driver = xar.start("evaluate", patch, "--env", "toy", "--sandbox", "process", "--seeds", "2", "--json")
    try:
        cleanings = 0
        while driver.poll() is None:
            assert xar("doctor", "--clean", env=NO_ENGINE).code == 0
            cleanings += 1
        out, err = driver.communicate()
    finally:
        driver.kill()
    assert cleanings > 1
    assert driver.returncode == 0, err
    assert [one["valid"] for one in json.loads(out)["evaluations"]] == [True] * 2


def test_an_ordinary_start_removes_what_dead_drivers_left(
    xar: Any, planted: list[Path], make_patch: Callable[[str, str], Path]
) -> None:
    said = subprocess.run([sys.executable, "-c", DEAD_GROUP], capture_output=True, text=True, check=True).stdout
    groups = [Path(line) for line in said.split()]
    patch = make_patch("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")
    ended = xar("evaluate", patch, "--env", "toy", "--sandbox", "process", "--json", env=NO_ENGINE)
    assert ended.code == 0, ended
    assert not planted[0].exists()
    assert not any(group.exists() for group in groups)


def test_a_resumed_run_empties_its_own_scratch(
    xar: Any, runs_dir: Path, make_patch: Callable[[str, str], Path]
) -> None:
    patch = make_patch("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")
    words = ["evaluate", patch, "--env", "toy", "--sandbox", "process", "--run", "cut", "--json"]
    driver = xar.start(*words)
    try:
        scratch = runs_dir / "cut" / "scratch"
        deadline = time.monotonic() + 60
        while not any(scratch.glob("*/workspace")) and time.monotonic() < deadline:
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
    finally:
        driver.kill()
        driver.communicate()
    assert any(scratch.iterdir())
    ended = xar(*words)
    assert ended.code == 0, ended
    assert list(scratch.iterdir()) == []


@pytest.mark.docker
def test_an_ordinary_start_removes_a_dead_drivers_container(
    xar: Any, docker_image: str, make_patch: Callable[[str, str], Path]
) -> None:
    program = "import json; from xar_agent.sandbox import engine; print(json.dumps(dict(engine.labels('planted'))))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    with closing(engine.connect()) as client:
        planted = client.create_container(docker_image, ["sleep", "60"], labels=json.loads(said))["Id"]
        patch = make_patch("LEARNING_RATE = 1.0", "LEARNING_RATE = 3.0")
        env = {"XAR_IMAGE": docker_image}
        ended = xar("evaluate", patch, "--env", "toy", "--sandbox", "docker", "--json", env=env)
        known = {one["Id"] for one in client.containers(all=True)}
    assert ended.code == 0, ended
    assert planted not in known
    assert json.loads((Path(ended.json["run_dir"]) / "run.json").read_text())["settings"]["image"] == docker_image


def test_without_a_gpu_the_check_says_so_and_exits_3(xar: Any, tmp_path: Path) -> None:
    ended = xar("doctor", "--gpu", "--json", env={**NO_ENGINE, "XAR_FAKE_GPUS": str(tmp_path)})
    assert ended.code == 3
    assert ended.json["error"].startswith("there is no GPU here that can be used")


def test_gpus_are_listed_with_their_holders(xar: Any, tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidia1").touch()
    env = {**READY, "XAR_FAKE_GPUS": str(tmp_path), "XAR_GPU_LEASES": str(tmp_path / "leases")}
    uuids = [one["uuid"] for one in xar("doctor", "--env", "toy", "--json", env=env).json["gpus"]["devices"]]
    with LeaseFolder(tmp_path / "leases").hold(uuids[1:], 1):
        found = xar("doctor", "--env", "toy", "--json", env=env).json["gpus"]["devices"]
        text = xar("doctor", "--env", "toy", env=env).out
    assert [one["held_by"] for one in found] == [None, os.getpid()]
    assert f"held by process {os.getpid()}" in " ".join(text.split())


def test_wrong_words_are_refused(xar: Any) -> None:
    assert xar("doctor", "--gpu", "--clean").code == 2
    assert xar("doctor", "--env", "nowhere").code == 2
    assert xar("doctor", env={"XAR_SANDBOX": "jail"}).code == 2
