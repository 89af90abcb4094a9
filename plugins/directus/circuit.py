"""When Directus is left alone: after failures of its own for a while, and as long as it asks for it."""

from __future__ import annotations

import random
import time

_FAILURES = 3
"""In a row, after which it is left alone."""
_FIRST_REST = 0.25
_LONGEST_REST = 10.0


class Circuit:
    """Closed, everybody may call. Open, nobody may. After its rest one call is let through, and what becomes of it decides."""

    def __init__(self) -> None:
        self._failures = 0
        self._rests = 0
        self._closed_from = 0.0
        self._asked_until = 0.0
        self._trying = False
        self.reason: str | None = None
        """Why the last call did not go through; None once one went through again."""

    @property
    def open(self) -> bool:
        """Whether it is given a rest, or tried just now."""
        return self._failures >= _FAILURES or time.monotonic() < self._asked_until

    def admit(self) -> float:
        """0: call now, and say what became of it (`succeeded`, `failed`, `abandoned`). Else for how many seconds not."""
        now = time.monotonic()
        if now < self._asked_until:
            return self._asked_until - now
        if self._failures < _FAILURES:
            return 0.0
        if self._trying:
            return _FIRST_REST
        if now < self._closed_from:
            return self._closed_from - now
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        """It answered."""
        self._failures = self._rests = 0
        self._trying = False
        self.reason = None

    def failed(self, reason: str, wait: float | None) -> None:
        """It did not answer, or asks to be left alone for `wait` seconds."""
        now = time.monotonic()
        self.reason = reason
        if wait is not None:
            self._asked_until = max(self._asked_until, now + wait)
        tried, self._trying = self._trying, False
        self._failures += 1
        if self._failures == _FAILURES or (self._failures > _FAILURES and tried):
            rest = min(_LONGEST_REST, _FIRST_REST * 2**self._rests)
            self._rests = min(self._rests + 1, 16)
            self._closed_from = now + rest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter

    def abandoned(self) -> None:
        """Whoever called does not want the answer any more."""
        self._trying = False
