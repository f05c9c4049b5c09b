"""A result card: whole, tamper-evident, free of contradictions; and the rule by which it counts as reproduced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import baseline

from xar_agent.envs.spec import load_env
from xar_agent.errors import UserError
from xar_agent.jobs.baseline import baseline_path
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.card import Card, digest_of, read_card, with_digest
from xar_agent.jobs.card_making import keep_card, score_on_card
from xar_agent.jobs.records import IdeaRecord, Spend
from xar_agent.jobs.runs import RunStore
from xar_agent.jobs.scoring import score
from xar_agent.jobs.types import Check, Evaluation, Failure, FailureClass, Job, JobSpec, JobState
from xar_agent.jobs.verification import check_bench, check_env, compare_with_card, known_baseline
from xar_agent.sandbox.protocol import Patch
from xar_agent.store import write_json

pytestmark = pytest.mark.parametrize("backend", ["process"], indirect=True)
BASE = baseline(mean=2.5, sd=0.02, n=20)
VALUES = (2.44, 2.42)
DIFF = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-a\n+b\n"
PATCH = Patch("base", DIFF, ("train.py",), 1, 1, hashlib.sha256(DIFF.encode()).hexdigest())


def job(seed: int, value: float | None, machine: str = "here x2, torch 2.13.0", **changes: Any) -> Job:
    """A full run that has ended."""
    spec = JobSpec("run", "idea", "toy", "default", seed, PATCH, "tree")
    checks = (Check("budget", True, figure=5.0),)
    found = Evaluation(
        "val_loss", value, "min", True, (), checks, seed, 1.0, 3.0, 4.0, 5, "tree", "c", "e", "v", "d", machine,
        corpus="plays", flags=("large_gain: much",),
    )  # fmt: skip
    evaluation = None if value is None else replace(found, **changes)
    failure = Failure(FailureClass.CODE, "it crashed") if value is None else None
    return Job(f"job{seed}", f"job{seed}", spec, JobState.SUCCEEDED, 1, failure, evaluation)


JOBS = [job(seed, value) for seed, value in enumerate(VALUES, 1)]


def kept(store: RunStore, bench: Bench, jobs: list[Job] = JOBS) -> Path | None:
    """The card of these full runs."""
    evaluations = [one.evaluation for one in jobs if one.evaluation]
    found = score_on_card(score(evaluations, BASE, "min"))
    assert found is not None
    return keep_card(store, bench, jobs, PATCH, found, baseline=BASE, fidelity="effect")


@pytest.fixture
def path(store: RunStore, bench: Bench, planted_key: str) -> Path:
    """A card on disk."""
    store.add_idea(IdeaRecord("idea", f"Raise the rate, {planted_key}", "toy"))
    store.add_spend(Spend("idea", "model", "m", 1000, 200, 0.5, 0.0, 12.0))
    store.add_spend(Spend("idea", "train", cpu_s=3.0, wall_s=4.0))
    made = kept(store, bench)
    assert made is not None
    return made


@pytest.fixture
def card(path: Path) -> Card:
    """The same, read."""
    return read_card(path)


Change = Callable[[dict[str, Any]], None]


def changed(path: Path, change: Change, *, redo_digest: bool) -> Path:
    """The card after somebody edited it."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(with_digest(record) if redo_digest else record))
    return path


def test_a_card_says_what_was_measured_with_what_and_for_how_much(card: Card, bench: Bench, planted_key: str) -> None:
    assert card.idea == "Raise the rate, [redacted]"
    assert (card.seeds, card.values, card.patch) == ((1, 2), VALUES, PATCH)
    assert (card.env.clock, card.env.budget, card.env.corpus) == ("tokens", bench.preset.budget, "plays")
    assert (card.score.verdict, card.score.n, card.baseline) == ("better", 2, BASE)
    assert (card.made_with.machine, card.made_with.torch) == ("here x2, torch 2.13.0", "2.13.0")
    assert (card.cost.usd, card.cost.input_tokens, card.cost.cpu_s, card.cost.gpu_s) == (0.5, 1000, 3.0, 0.0)
    assert card.evaluations[0].checks == (Check("budget", True, figure=5.0),)
    assert card.evaluations[0].flags == ("large_gain: much",)


def test_a_result_with_an_invalid_or_a_missing_seed_has_no_card(store: RunStore, bench: Bench) -> None:
    assert kept(store, bench, [*JOBS, job(3, 2.4, valid=False, reasons=("finite: no",))]) is None
    assert kept(store, bench, [*JOBS, job(3, None)]) is None


def test_a_card_that_was_changed_is_refused(path: Path) -> None:
    def better(record: dict[str, Any]) -> None:
        record["evaluations"][0]["value"] -= 0.2

    with pytest.raises(UserError, match="was changed after it was made"):
        read_card(changed(path, better, redo_digest=False))


def test_the_digest_covers_every_key(path: Path) -> None:
    record = json.loads(path.read_text())
    whole = record.pop("digest")
    assert digest_of(record) == whole
    for key in record:
        assert digest_of({**record, key: "other"}) != whole
    assert digest_of({**record, "added": 1}) != whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["patch"].update(diff="x"), "sha256"),
        (lambda r: r["score"].update(mean=2.0), "mean"),
        (lambda r: r["score"].update(verdict="worse"), "verdict"),
        (lambda r: r["evaluations"][0].update(seed=2), "seeds"),
        (lambda r: r["evaluations"].clear(), "seeds"),
        (lambda r: r["evaluations"][0].update(valid=False), "check"),
        (lambda r: r["evaluations"][0]["checks"][0].update(passed=False), "budget at seed 1"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused_also_with_a_fresh_digest(
    path: Path, change: Change, said: str
) -> None:
    with pytest.raises(UserError, match=f"contradicts itself: .*{said}"):
        read_card(changed(path, change, redo_digest=True))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "digest": NaN}'])
def test_what_is_no_card_is_the_users_error(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError):
        read_card(path)
    with pytest.raises(UserError, match="cannot read the card"):
        read_card(path.with_name("nothing.json"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(idea_id="../../../elsewhere"), "idea_id"),
        (lambda r: r.update(idea_id="/elsewhere"), "idea_id"),
        (lambda r: r["env"].update(name="./env-that-came-with-it"), "a path"),
        (lambda r: r["evaluations"][0].update(seed=-1), "a seed"),
        (lambda r: [e.update(value=1e308) for e in r["evaluations"]], "a figure"),
        (lambda r: [e.update(compute_ratio=1e308) for e in r["evaluations"]], "a figure"),
        (lambda r: r["baseline"].update(n=10**30), "the baseline"),
        (lambda r: r["baseline"].update(cpu_s=0.0), "the baseline"),
        (lambda r: r["baseline"].update(curve=2 * [{"compute": 1.0, "mean": 1.0, "sd": 1.0, "n": 1}]), "the baseline"),
    ],
)
def test_a_card_with_names_or_figures_that_are_not_to_be_worked_with_is_refused(
    path: Path, change: Change, said: str
) -> None:
    with pytest.raises(UserError, match=f"is not a result card: .*{said}"):
        read_card(changed(path, change, redo_digest=True))


def test_a_wide_baseline_on_a_card_makes_no_forged_score_agree(card: Card, bench: Bench) -> None:
    own = replace(card, baseline=BASE.model_copy(update={"sd": 100.0}), env=replace(card.env, clock="seconds"))
    assert known_baseline(own, bench) is own.baseline, "none is known here"
    write_json(baseline_path(bench.env, bench.preset_name, runtime=bench.runtime), BASE.model_dump())
    known = known_baseline(own, bench)
    assert known == BASE, "the one known here counts"
    jobs = [job(1, 3.0), job(2, 3.0)]
    assert not compare_with_card(own, jobs, known).reproduced
    assert "the card's own word" in compare_with_card(own, jobs, own.baseline).differences[-1]


def test_the_evaluator_of_the_cards_own_preset_is_the_one_that_must_be_here(card: Card) -> None:
    env = load_env("nanogpt")
    large = env.at("speedrun")
    assert large.evaluator_version != env.evaluator_version
    size = large.preset("speedrun")
    here = replace(
        card.env, name="nanogpt", preset="speedrun", metric="minutes_to_target", clock="seconds", budget=size.budget,
        env_version=env.version, evaluator_version=large.evaluator_version,
    )  # fmt: skip
    check_env(replace(card, env=here), env)
    for other in (
        replace(here, clock="tokens"),
        replace(here, metric="val_loss"),
        replace(here, evaluator_version=env.evaluator_version),
    ):
        with pytest.raises(UserError, match="cannot be verified with these files"):
            check_env(replace(card, env=other), env)


def test_other_files_are_refused_and_named(card: Card, bench: Bench) -> None:
    toy = load_env("toy")
    budget = toy.preset("default").budget
    here = replace(card.env, env_version=toy.version, evaluator_version=toy.evaluator_version, budget=budget)
    check_env(replace(card, env=here), toy)
    with pytest.raises(UserError, match="the environment is"):
        check_env(replace(card, env=replace(here, env_version="other")), toy)
    with pytest.raises(UserError, match="the evaluator is"):
        check_env(replace(card, env=replace(here, evaluator_version="other")), toy)
    with pytest.raises(UserError, match="the data set is"):
        check_bench(card, bench)
    with pytest.raises(UserError, match="the base tree is"):
        check_bench(replace(card, env=replace(here, data_sha256=bench.data.sha256)), bench)


def test_at_the_same_place_each_value_must_come_out_again(card: Card) -> None:
    again = compare_with_card(card, [job(1, VALUES[0] + 5e-7), job(2, VALUES[1])], None)
    assert (again.reproduced, again.same_place, again.differences) == (True, True, ())
    assert not compare_with_card(card, [job(1, VALUES[0] + 2e-6), job(2, VALUES[1])], BASE).reproduced
    assert compare_with_card(card, [job(1, VALUES[0])], BASE).reproduced, "the first seeds are enough"


def test_a_value_that_was_forged_with_a_fresh_digest_is_not_reproduced(path: Path) -> None:
    def better(record: dict[str, Any]) -> None:
        record["evaluations"][0]["value"] -= 0.02
        record["score"]["mean"] -= 0.01

    forged = read_card(changed(path, better, redo_digest=True))
    assert not compare_with_card(forged, JOBS, BASE).reproduced


def test_on_another_machine_the_means_must_agree_within_chance(card: Card) -> None:
    # t(0.975, 19) = 2.093; 2.093 x 0.02 x sqrt(1/2 + 1/2) = 0.0419, and with one seed x sqrt(1/2 + 1) = 0.0513.
    def shifted(by: float, n: int = 2) -> list[Job]:
        return [job(seed, value + by, "there x8, torch 2.13.0") for seed, value in enumerate(VALUES[:n], 1)]

    inside = compare_with_card(card, shifted(0.041), BASE)
    assert (inside.reproduced, inside.same_place) == (True, False)
    assert inside.allowed == pytest.approx(0.04186, abs=1e-4)
    assert inside.difference == pytest.approx(0.041)
    assert "there x8" in inside.differences[0]
    assert not compare_with_card(card, shifted(-0.043), BASE).reproduced
    assert compare_with_card(card, shifted(0.0, 1), BASE).allowed == pytest.approx(0.05127, abs=1e-4)


def test_a_budget_of_seconds_is_never_compared_bit_by_bit(card: Card) -> None:
    seconds = replace(card, env=replace(card.env, clock="seconds"))
    found = compare_with_card(seconds, [job(1, 2.45), job(2, 2.41)], BASE)
    assert (found.reproduced, found.same_place) == (True, False)
    with pytest.raises(UserError, match="no baseline"):
        compare_with_card(seconds, JOBS, None)


def test_a_seed_without_a_valid_score_is_not_reproduced_and_says_why(card: Card) -> None:
    crashed = compare_with_card(card, [JOBS[0], job(2, None)], BASE)
    assert (crashed.reproduced, crashed.mean_here) == (False, None)
    assert crashed.again[1].reason == "CODE: it crashed"
    refused = job(2, VALUES[1], valid=False, reasons=("recitation: text",))
    found = compare_with_card(card, [JOBS[0], refused], BASE)
    assert (found.reproduced, found.again[1].reason) == (False, "recitation: text")
