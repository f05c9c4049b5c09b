"""The loop: what it hands out, what it takes in, what it leaves on disk, and how it ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from landscape import Landscape

from xar_agent.errors import BudgetReached, ModelUnavailable, PatchRefused, SandboxLost, StoreError
from xar_agent.jobs.types import FailureClass
from xar_agent.population.budget import Amount, Budget, Ledger
from xar_agent.population.decisions import FILE_NAME, DecisionLog
from xar_agent.population.evolve import Evolution, Plan, Progress
from xar_agent.population.policies import POLICIES
from xar_agent.store import read_lines


def plan(policy: str = "paper", epochs: int = 3, ideas: int = 6, parallel: int = 1, seed: int = 1) -> Plan:
    return Plan(POLICIES[policy], epochs, ideas, parallel, seed)


def run(folder: Path, wanted: Plan, work: Landscape | None = None) -> tuple[Evolution, Landscape]:
    """One command's part of a run."""
    work = work or Landscape(folder)
    evolution = Evolution(wanted, work, DecisionLog(folder), cancel=work.cancel)
    evolution.run()
    return evolution, work


def decisions(folder: Path) -> list[object]:
    return read_lines(folder / FILE_NAME)


def test_it_carries_out_every_planned_idea_once(tmp_path: Path) -> None:
    evolution, work = run(tmp_path, plan())
    ids = [idea.id for idea in evolution.log.ideas]
    assert len(ids) == 18
    assert sorted(work.measured) == sorted(ids)
    assert [outcome.idea.id for outcome in evolution.outcomes] == ids
    assert [idea.epoch for idea in evolution.log.ideas] == [0] * 6 + [1] * 6 + [2] * 6


def test_children_come_from_parents_that_were_known_when_they_were_asked_for(tmp_path: Path) -> None:
    evolution, _ = run(tmp_path, plan(epochs=4))
    children = 0
    for proposal in evolution.log.proposals:
        for idea in proposal.ideas:
            children += bool(idea.parents)
            assert set(idea.parents) <= set(proposal.saw)
    assert children > 4


def test_search_beats_sampling_on_a_smooth_landscape(tmp_path: Path) -> None:
    gains = {}
    for policy in ("paper", "hill-climb", "best-of-n"):
        total = 0.0
        for seed in range(8):
            folder = tmp_path / f"{policy}-{seed}"
            folder.mkdir()
            evolution, _ = run(folder, plan(policy, epochs=5, ideas=6, seed=seed))
            total += sum(o.gain or 0 for o in evolution.outcomes if o.idea.epoch == 4)
        gains[policy] = total
    assert gains["hill-climb"] > gains["best-of-n"]
    assert gains["paper"] > gains["best-of-n"]


def test_the_same_seed_makes_the_same_decisions(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, plan(seed=1 if name != "c" else 2))
    assert decisions(tmp_path / "a") == decisions(tmp_path / "b")
    assert decisions(tmp_path / "a") != decisions(tmp_path / "c")


def test_several_ideas_are_at_work_at_a_time_and_no_more(tmp_path: Path) -> None:
    work = Landscape(tmp_path, takes_s=0.02)
    evolution, _ = run(tmp_path, plan(parallel=3), work)
    assert work.most_at_once == 3
    assert len(set(work.measured)) == len(evolution.log.ideas) == 18


def test_a_slow_idea_does_not_hold_up_the_next_epoch_and_is_folded_in_when_it_comes(tmp_path: Path) -> None:
    class OneIsSlow(Landscape):
        def carry_out(self, idea):  # type: ignore[no-untyped-def]
            if idea.id == slow_id:
                until.wait(20)
            super().carry_out(idea)

    until = threading.Event()
    wanted = plan("hill-climb", parallel=2)
    first = Evolution(wanted, Landscape(tmp_path), DecisionLog(tmp_path), cancel=threading.Event())
    first._propose()  # the first proposal alone, to know the first idea
    slow_id = first.log.ideas[0].id

    def watch(event: Progress) -> None:
        if event.kind == "finished" and event.epoch == 1:
            until.set()

    work = OneIsSlow(tmp_path)
    evolution = Evolution(wanted, work, DecisionLog(tmp_path), cancel=work.cancel, on_progress=watch)
    evolution.run()
    order = [outcome.idea for outcome in evolution.outcomes]
    assert until.is_set()
    place = [idea.id for idea in order].index(slow_id)
    assert any(idea.epoch == 1 for idea in order[:place])
    assert len(order) == 18


def test_an_epoch_begins_when_half_of_the_one_before_is_in(tmp_path: Path) -> None:
    _, work = run(tmp_path, plan("hill-climb", ideas=4, parallel=8), Landscape(tmp_path, takes_s=0.02))
    seen = {wanted.stage.epoch: len(wanted.outcomes) for wanted in reversed(work.asked)}
    assert 2 <= seen[1] <= 4
    assert 6 <= seen[2] <= 8


def test_the_papers_epochs_begin_when_all_results_are_in(tmp_path: Path) -> None:
    _, work = run(tmp_path, plan("paper", ideas=4, parallel=3), Landscape(tmp_path, takes_s=0.01))
    assert [len(wanted.outcomes) for wanted in work.asked] == [0, 4, 8]
    assert all(wanted.samples_evenly for wanted in work.asked)


def test_an_epoch_where_every_idea_fails_goes_on_and_the_next_one_is_told_why(tmp_path: Path) -> None:
    work = Landscape(tmp_path, every_idea_fails=True)
    evolution, _ = run(tmp_path, plan(), work)
    assert len(evolution.outcomes) == 18
    told = next(wanted for wanted in work.asked if wanted.stage.epoch == 1)
    assert [outcome.failure for outcome in told.outcomes] == [FailureClass.NAN] * 6
    assert all("nan" in outcome.reason for outcome in told.outcomes)


def test_what_is_on_record_is_not_asked_for_again(tmp_path: Path) -> None:
    run(tmp_path, plan(epochs=1))
    evolution, work = run(tmp_path, plan(epochs=2))
    assert [wanted.stage.epoch for wanted in work.asked] == [1, 1]
    assert len(work.measured) == 12
    assert len(evolution.outcomes) == 12


def test_a_budget_ends_the_run_and_more_of_it_goes_on(tmp_path: Path) -> None:
    cost, worst = Amount(tokens=100), Amount(tokens=150)
    ledger = Ledger(tmp_path, Budget(tokens=1000))
    evolution, work = run(tmp_path, plan(), Landscape(tmp_path, ledger=ledger, cost=cost, worst=worst))
    assert isinstance(evolution.stopped, BudgetReached)
    assert ledger.spent.tokens == 900 == 100 * len(work.measured)
    ledger = Ledger(tmp_path, Budget(tokens=10_000))
    assert ledger.spent.tokens == 900
    evolution, work = run(tmp_path, plan(), Landscape(tmp_path, ledger=ledger, cost=cost, worst=worst))
    assert evolution.stopped is None
    assert len(set(work.measured)) == len(work.measured) == 18
    assert ledger.spent.tokens == 1800


def test_twenty_random_budgets_are_never_exceeded_and_each_stop_is_resumable(tmp_path: Path) -> None:
    rng = random.Random(20)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        cost = Amount(rng.uniform(0, 0.1), rng.randrange(1, 500), rng.uniform(0, 0.2))
        worst = Amount(cost.usd * rng.uniform(1, 3), cost.tokens * 2, cost.gpu_hours * rng.uniform(1, 4))
        limits = Budget(
            rng.choice([None, rng.uniform(0, 1.5)]),
            rng.choice([None, rng.randrange(0, 6000)]),
            rng.choice([None, rng.uniform(0, 2.5)]),
        )
        wanted = plan(parallel=rng.choice([1, 2, 4]))
        ledger = Ledger(folder, limits)
        work = Landscape(folder, ledger=ledger, cost=cost, worst=worst, takes_s=0.001)
        stopped = run(folder, wanted, work)[0].stopped
        assert limits.lacking(ledger.spent) == ""
        assert stopped is None or isinstance(stopped, BudgetReached)
        done = len(work.measured)
        assert (done == 18) == (stopped is None)
        _, again = run(folder, wanted, Landscape(folder, ledger=Ledger(folder, Budget()), cost=cost, worst=worst))
        assert len(set(again.measured)) == len(again.measured) == 18


def test_the_house_gets_a_second_try_and_then_the_blame(tmp_path: Path) -> None:
    first = Landscape(tmp_path)
    evolution = Evolution(plan(), first, DecisionLog(tmp_path), cancel=first.cancel)
    evolution._propose()
    lucky, unlucky = evolution.log.ideas[0], evolution.log.ideas[2]
    errors = {lucky.text: [SandboxLost("gone")], unlucky.text: [SandboxLost("gone"), SandboxLost("gone again")]}
    evolution, _ = run(tmp_path, plan(), Landscape(tmp_path, errors=dict(errors)))
    found = {outcome.idea.id: outcome for outcome in evolution.outcomes}
    assert found[lucky.id].valid
    assert found[unlucky.id].failure is FailureClass.INFRA
    assert found[unlucky.id].reason == "gone again"
    assert len(found) == 18
    again, _ = run(tmp_path, plan())
    assert {o.idea.id: o.failure for o in again.outcomes}[unlucky.id] is FailureClass.INFRA


def test_an_idea_on_which_something_unforeseen_happens_fails_alone(tmp_path: Path) -> None:
    first = Landscape(tmp_path)
    evolution = Evolution(plan(), first, DecisionLog(tmp_path), cancel=first.cancel)
    evolution._propose()
    texts = [idea.text for idea in evolution.log.ideas]
    errors = {texts[1]: [KeyError("boom")], texts[3]: [PatchRefused("binary file")]}  # type: ignore[list-item]
    evolution, _ = run(tmp_path, plan(), Landscape(tmp_path, errors=errors))
    failures = {o.idea.text: (o.failure, o.reason) for o in evolution.outcomes if o.failure}
    assert failures == {
        texts[1]: (FailureClass.INFRA, "KeyError: 'boom'"),
        texts[3]: (FailureClass.INTEGRITY, "binary file"),
    }


def test_three_failures_of_the_house_in_a_row_end_the_run(tmp_path: Path) -> None:
    class Broken(Landscape):
        def carry_out(self, idea):  # type: ignore[no-untyped-def]
            raise SandboxLost("no sandbox starts")

    evolution, work = run(tmp_path, plan(), Broken(tmp_path))
    assert isinstance(evolution.stopped, SandboxLost)
    assert not work.measured
    assert len(evolution.outcomes) <= 1


@pytest.mark.parametrize("error", [ModelUnavailable("no answer"), StoreError("the disk is full")])
def test_what_would_fail_every_idea_ends_the_run_with_its_own_error(tmp_path: Path, error: Exception) -> None:
    first = Landscape(tmp_path)
    evolution = Evolution(plan(), first, DecisionLog(tmp_path), cancel=first.cancel)
    evolution._propose()
    work = Landscape(tmp_path, errors={evolution.log.ideas[2].text: [error]})  # type: ignore[list-item]
    with pytest.raises(type(error)):
        run(tmp_path, plan(), work)
    evolution, work = run(tmp_path, plan())
    assert len(set(work.measured)) == len(work.measured) == 18


def test_a_keyboard_interrupt_waits_for_the_threads_and_can_be_resumed(tmp_path: Path) -> None:
    work = Landscape(tmp_path, takes_s=0.02)

    def interrupt(event: Progress) -> None:
        if event.kind == "finished":
            raise KeyboardInterrupt

    evolution = Evolution(plan(parallel=3), work, DecisionLog(tmp_path), cancel=work.cancel, on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        evolution.run()
    assert work.cancel.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("idea-")]
    _, again = run(tmp_path, plan(parallel=3))
    assert len(set(again.measured)) == len(again.measured) == 18


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from landscape import Landscape
from test_evolve import plan, run
run(Path(sys.argv[1]), plan(epochs=3, ideas=8), Landscape(Path(sys.argv[1]), takes_s=0.01))
"""


def test_killed_at_any_moment_it_goes_on_with_the_same_decisions(tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    run(calm, plan(epochs=3, ideas=8))
    rng = random.Random(30)
    here = str(Path(__file__).resolve().parent)
    kills = 0
    while True:
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(rough), here])
        deadline = time.monotonic() + rng.uniform(0.2, 0.9) * (1 + kills / 20)  # a loaded machine starts slowly
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if child.poll() is not None:
            assert child.returncode == 0
            break
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        assert kills < 200
    assert decisions(rough) == decisions(calm)
    measured = Landscape(rough).measured
    assert len(set(measured)) == len(measured) == 24
