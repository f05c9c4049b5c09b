"""Questions to something that may never answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from xar_agent.errors import CapabilityMissing

Answer = TypeVar("Answer")


def within(limit_s: float, ask: Callable[[], Answer], whom: str, hint: str = "") -> Answer:
    """The answer, or the error that came in its place.

    The asking thread is left behind when the time is over: nothing can end a call that hangs in the kernel.

    Raises:
        CapabilityMissing: there was none within ``limit_s`` seconds.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # it belongs to whoever waits
            errors.append(error)

    thread = threading.Thread(target=run, name="question", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not answers:
        raise CapabilityMissing(f"{whom} does not answer within {limit_s:g} s", hint)
    return answers[0]
