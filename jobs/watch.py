"""The thread beside a training run: it follows the curve, tells how far the run is, and ends it when it must."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from xar_agent.jobs.feed import Clock, Feed
from xar_agent.jobs.outputs import CurveFollower, CurvePoint
from xar_agent.sandbox.protocol import Sandbox

FOLLOW_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; tokens and seconds are counted by the host, the loss is the candidate's own word."""

    tokens: int
    """Served so far; 0 where the data is a folder."""
    used: float
    """Of the budget, in units of its clock."""
    budget: int
    clock: Clock
    step: int
    loss: float | None
    eta_s: float | None


class Watch:
    """The thread beside a training run."""

    def __init__(
        self,
        sandbox: Sandbox,
        follower: CurveFollower,
        feed: Feed,
        overtime_s: float,
        on_progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self._sandbox = sandbox
        self._follower = follower
        self._feed = feed
        self._overtime_s = overtime_s
        self._on_progress = on_progress
        self._cancel = cancel
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-training", daemon=True)
        self._error: BaseException | None = None
        self.cancelled = False
        self.late_s: float | None = None
        """How long after the end of its budget the run was ended; None when it was not."""

    def start(self) -> None:
        """Begin to watch; the program begins now."""
        self._feed.begin()
        self._thread.start()

    def stop(self) -> None:
        """The run has ended.

        Raises:
            StoreError: the curve could not be written, and the run was killed. What ``on_progress`` raised is the same.
        """
        self._done.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # it belongs to whoever waits for the run
            self._error = error
            self._sandbox.kill_all()

    def _follow(self) -> None:
        while not self._done.wait(FOLLOW_S):
            if self._cancel and self._cancel.is_set():
                # Again each round: the command may not have begun when the request came.
                self.cancelled = True
                self._sandbox.kill_all()
            elif self._feed.over_s > self._overtime_s:
                self.late_s = self._feed.over_s
                self._sandbox.kill_all()
            elif (point := self._follower.poll()) and self._on_progress:
                self._on_progress(self._progress(point))

    def _progress(self, point: CurvePoint) -> Progress:
        feed = self._feed
        used = feed.used
        return Progress(feed.tokens, used, feed.budget, feed.clock, point.step, point.loss, self._left_s(used))

    def _left_s(self, used: float) -> float | None:
        """Seconds until the budget is used up; None as long as nobody knows."""
        left = self._feed.budget - used
        if self._feed.clock == "seconds":
            return left
        return self._feed.since_begun_s * left / used if used else None
