"""How many calls a second sign-in makes of Directus: in any second so many at most, the first of them at once, the others evenly."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_CATCH_UP = 0.25
"""Seconds by which calls may be behind their even beat and still make up for it: a loop is late now and then."""


class Pace:
    """Counts calls and says when the next one may leave. It holds nobody up itself: whoever calls asks it first."""

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.gap = 1.0 / per_second
        """Seconds between two calls where many want to leave."""
        self._most = per_second
        self._at_once = max(1, per_second // 4)
        self._clock = clock
        self._left: deque[float] = deque(maxlen=per_second)
        """When the last calls left, as many as there may be in a second."""
        self._beat = 0.0
        """When the next one is due, where many want to leave."""

    @property
    def busy(self) -> bool:
        """Whether more calls left within the last second than a few people make who happen to come at the same time."""
        return len(self._left) >= self._at_once and self._left[-self._at_once] > self._clock() - 1.0

    def wait(self) -> float:
        """After how many seconds the next call may leave; 0: now."""
        due = self._beat if self.busy else 0.0
        if len(self._left) == self._most:
            due = max(due, self._left[0] + 1.0)
        return max(0.0, due - self._clock())

    def count(self) -> None:
        """A call leaves now. One that did not wait counts too: others leave later for it."""
        now = self._clock()
        self._beat = max(self._beat, now - _CATCH_UP) + self.gap
        self._left.append(now)
