"""A few threads that carry ideas out, each idea in one of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from xar_agent.agent.types import Idea

TICK_S = 0.2
"""How often the waiting thread wakes up to take Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One idea's thread has come to its end."""

    idea: Idea
    error: BaseException | None


class Crew:
    """Threads that carry ideas out, each idea in one of its own."""

    def __init__(self, size: int, carry_out: Callable[[Idea], None]) -> None:
        self.size = size
        self._carry_out = carry_out
        self._done: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self.at_work: list[Idea] = []

    @property
    def free(self) -> bool:
        """Another idea can be started."""
        return len(self.at_work) < self.size

    def start(self, idea: Idea) -> None:
        """Hand an idea to a thread."""
        self.at_work.append(idea)
        threading.Thread(target=self._run, args=(idea,), name=f"idea-{idea.id}", daemon=True).start()

    def _run(self, idea: Idea) -> None:
        try:
            self._carry_out(idea)
        except BaseException as error:  # told to the loop, which knows what to do about each kind
            self._done.put(Ended(idea, error))
        else:
            self._done.put(Ended(idea, None))

    def wait(self) -> Ended:
        """The next idea that has come to its end."""
        while True:
            try:
                ended = self._done.get(timeout=TICK_S)
            except queue.Empty:
                continue
            self.at_work.remove(ended.idea)
            return ended
