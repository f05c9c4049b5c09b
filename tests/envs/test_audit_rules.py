"""The audits of the nanogpt evaluator over tables of losses: what they refuse, what they let pass, where they look."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "audit"))

from leaky import LEAKS, Array, Tables, Warm, addressed_rows, audits  # noqa: E402

SD = 0.01375
RULES = audits.rules_for(SD, 1024, reduce=False)


@pytest.fixture(scope="module")
def honest() -> Array:
    """Losses (1536, 64) in nats, spread like those of a trained model: mean 4.25, a few above 11."""
    return np.random.default_rng(0).gamma(2.6, 4.25 / 2.6, (1536, 64))


def prefix(honest: Array, seen: Array, seed: int, *, noise: float = 0.0, rules: audits.Rules = RULES) -> audits.Check:
    """One prefix audit as the evaluator makes it."""
    rng = np.random.default_rng(seed)
    rows, worker = addressed_rows(*honest.shape), Tables(honest, seen, noise=noise, rng=rng)
    cuts = audits.n_cuts(rules, *honest.shape)
    check: audits.Check = audits.prefix_audit(worker, rows, seen, rules, rng, cuts=cuts, batch_rows=64)
    return check


def again(kind: type[Tables], honest: Array, seen: Array, seed: int, noise: float = 0.0) -> audits.Check:
    """One stateless check as the evaluator makes it, after a first pass of its own."""
    rng = np.random.default_rng(seed)
    rows = addressed_rows(*honest.shape)
    known = audits.score(kind(honest, seen, noise=noise, rng=rng), rows, (64,))
    fresh = kind(honest, seen, noise=noise, rng=rng)
    check: audits.Check = audits.stateless(fresh, rows, known, RULES, rng, batch_rows=64)
    return check


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_worth_one_sd_is_caught_however_it_is_diluted(name: str, honest: Array) -> None:
    for seed in range(3):
        seen = LEAKS[name](honest, SD, np.random.default_rng([seed, 2]))
        assert (honest - seen).mean() == pytest.approx(SD, rel=0.05)
        found = prefix(honest, seen, seed)
        assert not found.passed
        assert "the tokens that follow are cut off" in found.reason
        assert "\n" not in found.reason


def test_a_model_that_is_worse_on_prefixes_only_by_the_look_of_it_is_refused_too(honest: Array) -> None:
    assert not prefix(honest, honest + 2 * SD, 1).passed


@pytest.mark.parametrize("noise", [0.0, 0.0055, 0.017])
def test_rounding_is_never_accused(noise: float, honest: Array) -> None:
    for seed in range(4):
        assert prefix(honest, honest, seed, noise=noise).passed
        assert again(Tables, honest, honest, seed, noise=noise / 2**0.5).passed


@pytest.mark.parametrize("reduce", [False, True])
def test_a_run_of_small_noise_is_audited_at_more_positions_within_what_the_pipe_bears(reduce: bool) -> None:
    rules = audits.rules_for(0.003, 50_304, reduce=reduce)
    cuts = audits.n_cuts(rules, 10_240, 1024)
    assert 10_240 * cuts * 50_304 * (2 if reduce else 4) <= 4 << 30
    assert cuts == (3 if reduce else 2)
    assert audits.n_cuts(RULES, 1536, 64) == 4
    assert audits.n_cuts(RULES, 2, 64) == 64


def test_cuts_ascend_within_a_row_and_reach_every_position_equally_often_the_last_one_included() -> None:
    cuts = audits.draw_cuts(1536, 64, 4, np.random.default_rng(1))
    assert (np.diff(cuts, axis=1) > 0).all()
    assert set(np.unique(cuts)) == set(range(64))
    assert np.bincount(cuts.ravel()).tolist() == [96] * 64


def test_shorter_prefixes_come_first_over_all_rows(honest: Array) -> None:
    lengths: list[int] = []

    class Watch(Tables):
        def last_losses(self, prefixes: Array, targets: Array) -> Array:
            lengths.append(prefixes.shape[1])
            return super().last_losses(prefixes, targets)

    rng = np.random.default_rng(3)
    worker = Watch(honest, honest, rng=rng)
    audits.prefix_audit(worker, addressed_rows(*honest.shape), honest, RULES, rng, cuts=4, batch_rows=64)
    assert lengths == sorted(lengths)
    assert set(lengths) == set(range(1, 65))


def test_memory_that_helps_every_call_but_the_first_is_refused_though_prefixes_have_it_too(honest: Array) -> None:
    seen = LEAKS["a share of every loss"](honest, SD, np.random.default_rng(0))
    for seed in range(2):
        found = again(Warm, honest, seen, seed)
        assert not found.passed
        assert "first call" in found.reason


def test_text_known_by_heart_is_found_in_runs_and_scattered_luck_is_not(honest: Array) -> None:
    assert audits.recall(honest, 0.5).passed
    scattered, known = honest.copy(), honest.copy()
    scattered[:, ::7] = 0.0
    known[:5] = 0.02
    assert audits.recall(scattered, 0.5).passed
    found = audits.recall(known, 0.5)
    assert not found.passed
    assert "by heart" in found.reason
