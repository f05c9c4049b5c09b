"""The account of a run: worst cases are held, bills are booked, nothing is lost in a kill."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from xar_agent.errors import BudgetReached, Interrupted
from xar_agent.population.budget import FILE_NAME, Amount, Budget, Ledger
from xar_agent.population.clock import RunClock, read_used_s
from xar_agent.population.meter import BudgetMeter


def test_a_bill_replaces_its_worst_case(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget(tokens=1000))
    with ledger.reserve("call", Amount(tokens=800)) as held:
        assert ledger.left("tokens") == 200
        held.settle(Amount(tokens=30))
    assert ledger.spent.tokens == 30
    assert ledger.left("tokens") == 970
    assert Ledger(tmp_path, Budget()).spent.tokens == 30


def test_what_does_not_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget(usd=1.0))
    with ledger.reserve("call", Amount(usd=0.7)) as held:
        held.settle(Amount(usd=0.7))
    with pytest.raises(BudgetReached, match="1 USD"), ledger.reserve("call", Amount(usd=0.4)):
        pytest.fail("it was let in")
    with ledger.reserve("call", Amount(usd=0.3)):
        pass


def test_what_was_never_settled_counts_at_its_worst(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget())
    ledger._open_reservation("call", Amount(tokens=500), None)  # as a killed command leaves it
    assert Ledger(tmp_path, Budget()).spent.tokens == 500
    with pytest.raises(RuntimeError, match="reset"), ledger.reserve("call", Amount(tokens=40)):
        raise RuntimeError("reset")
    assert Ledger(tmp_path, Budget()).spent.tokens == 540


def test_a_torn_line_is_no_bill(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget())
    with ledger.reserve("call", Amount(tokens=500)) as held:
        held.settle(Amount(tokens=20))
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-5])
    again = Ledger(tmp_path, Budget())
    assert again.spent.tokens == 500
    with again.reserve("call", Amount(tokens=7)) as held:
        held.settle(Amount(tokens=7))
    assert Ledger(tmp_path, Budget()).spent.tokens == 507


def test_one_waits_while_the_bill_of_another_may_make_room(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget(tokens=1000))
    order = []

    def second() -> None:
        with ledger.reserve("b", Amount(tokens=600)) as held:
            order.append("second")
            held.settle(Amount(tokens=1))

    with ledger.reserve("a", Amount(tokens=600)) as held:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
        held.settle(Amount(tokens=100))
    thread.join(5)
    assert order == ["first", "second"]
    assert ledger.spent.tokens == 101


def test_a_cancelled_wait_ends(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget(tokens=1000))
    cancel = threading.Event()
    with ledger.reserve("a", Amount(tokens=600)):
        cancel.set()
        with pytest.raises(Interrupted), ledger.reserve("b", Amount(tokens=600), cancel=cancel):
            pytest.fail("it was let in")


def test_the_user_is_told_at_half_and_at_four_fifths_once(tmp_path: Path) -> None:
    told: list[str] = []
    ledger = Ledger(tmp_path, Budget(tokens=100), on_warning=told.append)
    for _ in range(9):
        with ledger.reserve("call", Amount(tokens=10)) as held:
            held.settle(Amount(tokens=10))
    assert [text.split()[0] for text in told] == ["50%", "80%"]
    Ledger(tmp_path, Budget(tokens=100), on_warning=told.append)
    assert len(told) == 2


def test_the_meter_reserves_bytes_and_the_longest_answer_and_books_the_bill(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Budget(usd=1.0))
    meter = BudgetMeter(ledger, (0.0001, 0.001), threading.Event())
    with meter.call(1000, 500) as charge:
        assert ledger.committed.usd == pytest.approx(0.1 + 0.5)
        charge.settle(300, 40, 0.07)
    assert ledger.spent == Amount(usd=0.07, tokens=340)
    with meter.call(1000, 500) as charge:
        charge.settle(300, 40, None)
    assert ledger.spent.usd == pytest.approx(0.67)
    with pytest.raises(BudgetReached), meter.call(1000, 500):
        pytest.fail("it was let in")


def test_the_clock_counts_over_commands_and_rings(tmp_path: Path) -> None:
    cancel = threading.Event()
    with RunClock(tmp_path, 1.0, cancel) as clock:
        assert cancel.wait(5)
        assert clock.over
        assert clock.used_s < 1.5
        with pytest.raises(BudgetReached, match="hours"):
            clock.check()
    used_s = read_used_s(tmp_path / "clock.json")
    assert 0.4 < used_s < 2.0
    cancel = threading.Event()
    with RunClock(tmp_path, 1000.0, cancel) as clock:
        assert clock.used_s >= used_s
        assert not clock.over


def test_a_clock_without_a_limit_never_rings(tmp_path: Path) -> None:
    cancel = threading.Event()
    with RunClock(tmp_path, None, cancel) as clock:
        clock.check()
        assert clock.left_s is None
    assert not cancel.is_set()
