"""What a patch may not carry: held-out text, its token ids, weights. Honest code passes."""

from __future__ import annotations

import base64
import json
import random
import time
import zipfile
from array import array
from pathlib import Path

import pytest

from xar_agent.envs.spec import Preset, load_env
from xar_agent.jobs.data import DataSet
from xar_agent.jobs.recitation import MAX_PATCH_BYTES, added_lines, data_in_patch, recitation_check
from xar_agent.jobs.types import Check
from xar_agent.sandbox.protocol import Patch

VOCAB = 1024
CODE = (load_env("toy").repo / "train.py").read_text()


def words(seed: int, n: int) -> list[str]:
    """Words of a language with 2,000 of them."""
    rng = random.Random(0)
    known = [
        "".join(rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 4))) for _ in range(2000)
    ]
    rng = random.Random(seed)
    return [rng.choice(known) for _ in range(n)]


def prose(seed: int, n: int) -> str:
    """Sentences of eight words on lines of their own."""
    found = words(seed, n)
    return "\n".join(" ".join(found[i : i + 8]).capitalize() + "." for i in range(0, n, 8))


def patch_of(text: str, name: str = "train.py") -> Patch:
    """A patch that adds this text to a file."""
    lines = text.splitlines()
    diff = f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n" + "".join(f"+{line}\n" for line in lines)
    return Patch("base", diff, (name,), len(lines), 0, "sha")


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """A data set with text and ids of every split."""
    folder = tmp_path / "data"
    for seed, split in enumerate(("train", "val", "hidden")):
        (folder / split).mkdir(parents=True)
        (folder / split / "text.txt").write_text(prose(seed, 4000))
        (folder / split / "meta.json").write_text(json.dumps({"vocab": VOCAB, "dtype": "uint16", "tokens": 5000}))
        (folder / split / f"{split}.bin").write_bytes(array("H", ids(seed)).tobytes())
    return DataSet(folder, "digest")


def ids(seed: int) -> list[int]:
    """Token ids of a split."""
    rng = random.Random(100 + seed)
    return [rng.randrange(VOCAB) for _ in range(5000)]


@pytest.fixture
def preset() -> Preset:
    """Without settings of its own."""
    return load_env("toy").preset("default")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder for what training left."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return folder


def checked(text: str, preset: Preset, data: DataSet, checkpoint: Path) -> Check:
    """The check of a patch that adds this text."""
    return recitation_check(patch_of(text), preset, data, checkpoint)


def commented(text: str) -> str:
    """As comments."""
    return "\n".join(f"# {line}" for line in text.splitlines())


@pytest.mark.parametrize(("seed", "split"), [(1, "validation"), (2, "hidden")])
@pytest.mark.parametrize("form", ["comment", "strings", "shouted", "list"])
def test_a_passage_of_held_out_text_is_found_however_it_is_written(
    form: str, seed: int, split: str, preset: Preset, data: DataSet, checkpoint: Path
) -> None:
    passage = prose(seed, 4000)[3000:3400]
    written = {
        "comment": commented(passage),
        "strings": "X = (\n" + "\n".join(f'    "{line}\\n"' for line in passage.splitlines()) + "\n)",
        "shouted": 'X = """' + passage.upper().replace(" ", "_") + '"""',
        "list": f"X = {passage.split()}",
    }[form]
    found = checked(CODE + written, preset, data, checkpoint)
    assert not found.passed
    assert f"the patch carries text of the {split} split" in found.reason
    assert "first in train.py:" in found.reason


@pytest.mark.parametrize("form", ["rot13", "any letters", "backwards", "backwards in a cipher"])
def test_a_passage_in_a_letter_cipher_or_backwards_is_found(
    form: str, preset: Preset, data: DataSet, checkpoint: Path
) -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    other = {"rot13": alphabet[13:] + alphabet[:13], "backwards": alphabet}.get(form, "qwertyuiopasdfghjklzxcvbnm")
    passage = prose(1, 4000)[1000:2200].lower().translate(str.maketrans(alphabet, other))
    found = checked(commented(passage[::-1] if "backwards" in form else passage), preset, data, checkpoint)
    assert not found.passed
    assert ("backwards" in found.reason) is ("backwards" in form)
    assert "cipher" in found.reason or form == "backwards"


def test_a_reason_quotes_the_patch_and_never_more_of_the_hidden_text(
    preset: Preset, data: DataSet, checkpoint: Path
) -> None:
    passage = prose(2, 4000)[3000:3400]
    reason = checked(commented(passage), preset, data, checkpoint).reason
    after = prose(2, 4000)[3400:3500].split()
    quoted = reason.split("'")[1]
    assert quoted in commented(passage)
    assert not any(word in reason for word in after if len(word) > 5 and word not in passage)


@pytest.mark.parametrize("seed", range(5, 15))
def test_other_text_of_the_same_language_passes(seed: int, preset: Preset, data: DataSet, checkpoint: Path) -> None:
    found = checked(CODE + commented(prose(seed, 1500)), preset, data, checkpoint)
    assert found.passed, found.reason


def test_training_text_in_a_comment_and_a_proverb_of_the_held_out_text_pass(
    preset: Preset, data: DataSet, checkpoint: Path
) -> None:
    proverb = prose(1, 4000)[:80]
    found = checked(commented(prose(0, 4000)[:5000]) + "\n" + commented(proverb), preset, data, checkpoint)
    assert found.passed, found.reason
    assert found.figure is not None
    assert 1 <= found.figure <= 3


@pytest.mark.parametrize("form", ["{}", "0x{:x}", "{:_<5}"])
def test_token_ids_of_the_held_out_split_are_found(form: str, preset: Preset, data: DataSet, checkpoint: Path) -> None:
    listed = ", ".join(form.format(n).rstrip("_") for n in ids(2)[500:640])
    found = checked(f"IDS = [{listed}]", preset, data, checkpoint)
    assert not found.passed
    assert "lists token ids of the hidden split" in found.reason


def test_ids_of_the_training_text_and_tables_pass(preset: Preset, data: DataSet, checkpoint: Path) -> None:
    table = ", ".join(str(i * i % 977) for i in range(300))
    assert checked(f"T = [{table}]\nU = {ids(0)[:300]}", preset, data, checkpoint).passed


def test_without_text_the_ids_alone_are_compared(preset: Preset, data: DataSet, checkpoint: Path) -> None:
    for split in ("val", "hidden"):
        (data.split(split) / "text.txt").unlink()
    assert checked(commented(prose(1, 100)), preset, data, checkpoint).passed
    assert not checked(str(ids(1)[:200]), preset, data, checkpoint).passed


@pytest.mark.parametrize("packed", [False, True])
def test_strings_within_a_checkpoint_are_compared_too(
    packed: bool, preset: Preset, data: DataSet, checkpoint: Path
) -> None:
    weights, passage = random.Random(3).randbytes(200_000), prose(1, 4000)[2000:2600]
    if packed:
        with zipfile.ZipFile(checkpoint / "checkpoint.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data", weights + passage.encode() + weights)
    else:
        (checkpoint / "checkpoint.pt").write_bytes(weights + passage.encode() + weights)
    found = checked(CODE, preset, data, checkpoint)
    assert not found.passed
    assert "strings in the checkpoint are text of the validation split" in found.reason
    assert passage.split()[5] not in found.reason


def test_weights_as_bytes_or_numbers_are_no_strings(preset: Preset, data: DataSet, checkpoint: Path) -> None:
    rng = random.Random(4)
    (checkpoint / "checkpoint.bin").write_bytes(rng.randbytes(3_000_000))
    (checkpoint / "checkpoint.json").write_text(
        json.dumps({str(i): [rng.random() for _ in range(28)] for i in range(900)})
    )
    found = checked(CODE, preset, data, checkpoint)
    assert (found.passed, found.figure) == (True, 0.0)


def test_a_damaged_archive_is_read_as_it_lies(preset: Preset, data: DataSet, checkpoint: Path) -> None:
    (checkpoint / "checkpoint.zip").write_bytes(
        b"PK\x03\x04" + random.Random(5).randbytes(5000) + b"PK\x05\x06" + bytes(18)
    )
    assert checked(CODE, preset, data, checkpoint).passed


def as_literal(text: str, width: int = 76) -> str:
    """A string over several lines."""
    return "X = (\n" + "\n".join(f'    "{text[i : i + width]}"' for i in range(0, len(text), width)) + "\n)\n"


@pytest.mark.parametrize("form", ["base64", "hex", "base85", "escaped", "letters", "one line", "docstring"])
def test_packed_data_of_more_than_a_kibibyte_is_refused(form: str, preset: Preset) -> None:
    rng = random.Random(6)
    raw = rng.randbytes(1600)
    text = {
        "base64": as_literal(base64.b64encode(raw).decode()),
        "hex": as_literal(raw.hex()),
        "base85": as_literal(base64.b85encode(raw).decode()),
        "escaped": as_literal("".join(f"\\x{byte:02x}" for byte in raw)),
        "letters": as_literal("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(2000))),
        "one line": f"X = '{base64.b64encode(raw).decode()}'",
        "docstring": '"""\n' + base64.encodebytes(raw).decode() + '"""',
    }[form]
    reason = data_in_patch(patch_of(CODE + text), preset)
    assert "bytes of data in literals" in reason
    assert "train.py:" in reason


def test_data_that_is_cut_into_words_is_refused_for_its_density(preset: Preset) -> None:
    text = base64.b64encode(random.Random(7).randbytes(6000)).decode()
    cut = " ".join(text[i : i + 7] for i in range(0, len(text), 7))
    lines = "\n".join(f"# {cut[i : i + 90]}" for i in range(0, len(cut), 90))
    assert "packed data" in data_in_patch(patch_of(CODE + lines), preset)


def test_tables_of_thousands_of_numbers_are_refused(preset: Preset) -> None:
    rng = random.Random(8)
    rows = "\n".join(", ".join(f"{rng.gauss(0, 1):.3f}" for _ in range(8)) + "," for _ in range(200))
    assert "1,600 number literals" in data_in_patch(patch_of(f"W = [\n{rows}\n]"), preset)


def test_a_patch_over_its_size_is_refused_and_a_preset_may_say_so(preset: Preset) -> None:
    long = patch_of("\n".join(f"x{i} = y{i} + z{i % 7}" for i in range(4000)))
    assert data_in_patch(long, preset).endswith(f"{MAX_PATCH_BYTES:,} are allowed")
    small = preset.model_copy(update={"settings": {**preset.settings, "max_patch_bytes": 100}})
    assert "100 are allowed" in data_in_patch(patch_of(CODE), small)


def test_honest_code_passes(preset: Preset) -> None:
    rng = random.Random(9)
    coefficients = ", ".join(repr(rng.gauss(0, 1)) for _ in range(100))
    licence = commented(prose(20, 400))
    text = f'{licence}\n{CODE}\nC = [{coefficients}]\n"""{prose(21, 800)}"""\n# {"=" * 100}\n# {"-" * 100}\n'
    assert data_in_patch(patch_of(text), preset) == ""


def test_added_lines_have_their_place_in_the_patched_file() -> None:
    diff = (
        "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -3,3 +3,4 @@ def f():\n one\n+two\n-three\n+four\n five\n"
        "@@ -20 +21,2 @@\n-x\n++++ b/odd\n+y\n--- a/b.py\n+++ b/b.py\n@@ -0,0 +1 @@\n+z\n"
    )
    assert [(line.place, line.text) for line in added_lines(diff)] == [
        ("a.py:4", "two"), ("a.py:5", "four"), ("a.py:21", "+++ b/odd"), ("a.py:22", "y"), ("b.py:1", "z"),
    ]  # fmt: skip


@pytest.mark.parametrize("hiding", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r", "\f@@ -1 +1,0 @@ "])
def test_a_character_that_only_looks_like_a_line_end_hides_nothing(
    preset: Preset, data: DataSet, checkpoint: Path, hiding: str
) -> None:
    text = prose(1, 400).replace("\n", " ")
    diff = f"--- a/train.py\n+++ b/train.py\n@@ -1 +1,2 @@\n-a\n+# {hiding}{text}\n+b = 1\n"
    assert [line.number for line in added_lines(diff)] == [1, 2]
    found = recitation_check(Patch("base", diff, ("train.py",), 2, 1, "sha"), preset, data, checkpoint)
    assert (found.passed, "text of the validation split" in found.reason) == (False, True)
    packed = diff.replace(text, base64.b64encode(random.Random(0).randbytes(3000)).decode())
    assert data_in_patch(Patch("base", packed, ("train.py",), 2, 1, "sha"), preset)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_archive_as_checkpoint_is_no_error_of_ours(
    preset: Preset, data: DataSet, checkpoint: Path, kind: int
) -> None:
    path = checkpoint / "checkpoint.pt"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("weights", b"text of some length " * 500)
    content = bytearray(path.read_bytes())
    start = content.index(b"weights") + len("weights")
    content[start : start + 24] = bytes(24)
    path.write_bytes(content)
    assert checked("X = 1", preset, data, checkpoint).passed


def test_thousands_of_blank_lines_behind_a_quote_take_no_time(preset: Preset) -> None:
    begun = time.process_time()
    assert not data_in_patch(patch_of("X = 'a'" + "\n" * 6000 + " " * 6000 + "\nY = 1"), preset)
    assert time.process_time() - begun < 2.0
