"""How alike two ideas are in their words: a cheap filter before compute is spent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

NEAR = 0.41
"""Jaccard similarity from which two ideas are near-duplicates: right for 85 % of hand-made pairs of rewordings and of
different ideas in similar words. A paraphrase in other words passes; the tree hash of the patch decides then."""
WORD = re.compile(r"\w+(?:[.-]\w+)*")
"""Numbers such as 0.01 and 3e-4 are one word: ideas that differ in a value differ."""


def similarity(a: str, b: str) -> float:
    """Share of common words in all words of both, 0 to 1; 1 for two texts without any."""
    first, second = words_of(a), words_of(b)
    if not first and not second:
        return 1.0
    return len(first & second) / len(first | second)


def nearest(text: str, others: Sequence[str]) -> tuple[int, float]:
    """Place and similarity of the other text that is most like this one; (-1, 0.0) when there is none."""
    found = (-1, 0.0)
    for index, other in enumerate(others):
        alike = similarity(text, other)
        if index == 0 or alike > found[1]:
            found = (index, alike)
    return found


@lru_cache(maxsize=4096)
def words_of(text: str) -> frozenset[str]:
    """Its words in small letters."""
    return frozenset(WORD.findall(text.casefold()))
