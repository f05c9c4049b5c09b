"""How long a run has been worked on, over all its commands, and the end of the time that it may take."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from xar_agent.errors import BudgetReached, StoreError
from xar_agent.population.budget import HINT
from xar_agent.store import store_errors, write_json

FILE_NAME = "clock.json"
BEAT_S = 2.0
"""A killed command's time is known to this."""
STOP_S = 4.0
"""Ending sandboxes and recording what was done takes a few seconds: the end is called so much earlier."""
MOST_OF_LIMIT = 0.5
"""But not earlier than this share of the limit."""


class RunClock:
    """Counts while it is open; sets an event when the time is over. Use it as a context manager."""

    def __init__(
        self,
        run_dir: Path,
        limit_s: float | None,
        cancel: threading.Event,
        *,
        began: float | None = None,
    ) -> None:
        """Take up the time of earlier commands.

        Args:
            run_dir: the run's folder.
            limit_s: seconds in all; None means no limit.
            cancel: set at the end of the time.
            began: start of this command by the monotonic clock; None means now.

        Raises:
            StoreError: the record cannot be read.
        """
        self._path = run_dir / FILE_NAME
        self._before_s = read_used_s(self._path)
        self._began = time.monotonic() if began is None else began
        self.limit_s = limit_s
        self._cancel = cancel
        self._closing = threading.Event()
        self.over = False
        """The time is over, and the event was set for that reason."""
        self._thread = threading.Thread(target=self._count, name="run-clock", daemon=True)

    @property
    def used_s(self) -> float:
        """Seconds so far, earlier commands included."""
        return self._before_s + time.monotonic() - self._began

    @property
    def left_s(self) -> float | None:
        """Seconds until work has to stop; None without a limit."""
        if self.limit_s is None:
            return None
        return max(self.limit_s - min(STOP_S, MOST_OF_LIMIT * self.limit_s) - self.used_s, 0.0)

    def check(self) -> None:
        """Raise when there is no time left.

        Raises:
            BudgetReached: the time is over.
        """
        if self.left_s == 0:
            raise BudgetReached(self.reason, HINT)

    @property
    def reason(self) -> str:
        """Why it ended, in words."""
        return f"the time of {(self.limit_s or 0) / 3600:g} hours is used up"

    def _count(self) -> None:
        while True:
            left_s = self.left_s
            if left_s == 0 and not self._cancel.is_set():
                self.over = True
                self._cancel.set()
            wait_s = BEAT_S if not left_s else min(BEAT_S, left_s)
            if self._closing.wait(wait_s):
                return
            try:
                self._save()
            except StoreError:
                continue  # a full disk ends the run where results are recorded; the clock alone is no reason

    def _save(self) -> None:
        write_json(self._path, {"used_s": round(self.used_s, 3)})

    def __enter__(self) -> RunClock:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join()
        self._save()


def read_used_s(path: Path) -> float:
    """Seconds on record.

    Raises:
        StoreError: the file is damaged.
    """
    if not path.exists():
        return 0.0
    with store_errors(path, "read"):
        text = path.read_text()
    try:
        return float(json.loads(text)["used_s"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error!r}") from error
