"""Path patterns of env.toml: ``*`` within a name, ``**`` across folders; a folder's name means all below it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache


def matches(path: str, globs: Iterable[str]) -> bool:
    """Whether a relative path is meant by one of the patterns."""
    return any(_pattern(glob).fullmatch(path) for glob in globs)


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    words: list[str] = []
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", glob.strip("/").removeprefix("./")):
        words.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part))
    return re.compile("".join(words) + "(?:/.*)?", re.DOTALL)
