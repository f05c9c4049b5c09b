"""Word similarity of ideas."""

from __future__ import annotations

from xar_agent.population.novelty import NEAR, nearest, similarity

IDEA = "Use squared ReLU as the activation of the MLP in model.py."


def test_rewordings_are_near_and_other_ideas_are_not() -> None:
    assert similarity(IDEA, "Use squared ReLU as activation inside the MLP of model.py") >= NEAR
    assert similarity(IDEA, "Raise the peak learning rate to 0.006 in train.py.") < NEAR


def test_it_is_symmetric_and_counts_words_once_whatever_their_case() -> None:
    assert similarity("a b b", "B A") == similarity("B A", "a b b") == 1.0
    assert similarity("a b", "b c") == 1 / 3
    assert (similarity("", "a"), similarity("", " !")) == (0.0, 1.0)


def test_numbers_are_words() -> None:
    assert similarity("0.01", "0.02") == 0.0
    assert similarity("3e-4", "3e-5") == 0.0


def test_the_nearest_is_named_by_its_place() -> None:
    assert nearest("a b", ["c", "a b c d", "a b c"]) == (2, 2 / 3)
    assert nearest("a", ["b", "c"]) == (0, 0.0)
    assert nearest("a", []) == (-1, 0.0)
