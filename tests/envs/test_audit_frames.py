"""Whatever a worker answers, the evaluator ends with a verdict: real frames in memory, hostile replies in them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

np = pytest.importorskip("numpy")
sys.path.append(str(Path(__file__).parents[2] / "envs" / "nanogpt"))

from candidate import Candidate, CheckFailed, Host, shown, token_losses  # noqa: E402

ROWS = np.arange(6, dtype=np.int64).reshape(2, 3)
VOCAB = 8
READY = b'{"op": "ready", "nbytes": 0}\n'
N_BYTES = 4 * 2 * 2 * VOCAB

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))
shapes = st.sampled_from([[2, 2, VOCAB], [2, 2], [2.0, 2, VOCAB], [10**30], [-1, -1, -1], [[2, 2, VOCAB]]]) | values
headers = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["logits", "losses", "error", ["logits"], None]) | values,
        "shape": shapes,
        "dtype": st.sampled_from(["float32", "float16", "object", ">f4"]) | values,
    },
    optional={"message": values, "nested": values},
)
payloads = st.binary(max_size=64) | st.binary(min_size=N_BYTES, max_size=N_BYTES)


def frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """As the host passes it on."""
    return json.dumps({**header, "nbytes": len(payload)}).encode() + b"\n" + payload


def outcome(answers: bytes, *, reduce: bool) -> str:
    """The check that failed, or "usable"."""
    try:
        candidate = Candidate(Host(io.BytesIO(READY + answers), io.BytesIO()), "w", VOCAB, reduce=reduce)
        losses = candidate.losses(ROWS)
    except CheckFailed as error:
        return error.name if str(error)[:1200].isprintable() and len(str(error)) <= 1200 else "untold"
    assert np.isfinite(losses).all()
    return "usable"


@settings(max_examples=150, deadline=None)
@given(headers, payloads, st.booleans())
def test_any_reply_is_a_loss_or_a_failed_check(header: dict[str, Any], payload: bytes, reduce: bool) -> None:
    assert outcome(frame(header, payload), reduce=reduce) in {"shape", "finite", "normalised", "usable"}


@settings(max_examples=80, deadline=None)
@given(st.binary(min_size=N_BYTES, max_size=N_BYTES))
def test_any_bits_in_a_reply_of_the_right_form_are_a_loss_or_a_failed_check(payload: bytes) -> None:
    right = {"op": "logits", "shape": [2, 2, VOCAB], "dtype": "float32"}
    assert outcome(frame(right, payload), reduce=False) in {"finite", "normalised", "usable"}


@pytest.mark.parametrize(
    ("value", "check"),
    [(np.nan, "finite"), (np.inf, "finite"), (-3e38, "normalised"), (3e38, "normalised"), (2e4, "normalised")],
)
def test_numbers_without_a_meaning_fail_the_check_that_names_it(value: float, check: str) -> None:
    logits = np.zeros((2, 2, VOCAB), dtype="<f4")
    logits[1, 1, 3] = value
    header = {"op": "logits", "shape": [2, 2, VOCAB], "dtype": "float32"}
    assert outcome(frame(header, logits.tobytes()), reduce=False) == check


@pytest.mark.parametrize(("value", "check"), [(-0.5, "normalised"), (1e9, "normalised"), (np.nan, "finite")])
def test_losses_that_no_distribution_has_are_refused(value: float, check: str) -> None:
    losses = np.full((2, 2), value, dtype="<f4")
    header = {"op": "losses", "shape": [2, 2], "dtype": "float32"}
    assert outcome(frame(header, losses.tobytes()), reduce=True) == check


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 30_000 + b"\n",
        b'{"nbytes": NaN}\n',
        b'{"nbytes": Infinity}\n',
        b"null\n",
        b'{"op": "logits"}\n',
        b"\xff\n",
    ],
)
def test_a_header_that_is_not_plain_json_is_the_workers_failure_and_no_crash(line: bytes) -> None:
    assert outcome(line, reduce=False) == "shape"


def test_a_message_deep_in_lists_or_with_control_characters_is_told_on_one_line() -> None:
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    assert outcome(frame({"op": "error", "message": nested}), reduce=False) == "shape"
    assert shown("a\nb\x1b[31m\u202e c") == "a b?[31m? c"


def test_the_loss_of_a_token_is_its_cross_entropy_in_nats() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25]], dtype=np.float32)) + 7
    assert token_losses(logits, np.array([1]))[0] == pytest.approx(np.log(4), abs=1e-6)
