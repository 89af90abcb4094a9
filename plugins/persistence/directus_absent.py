"""Chats of which Directus has just said that it has no row: a first message need not ask it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

_SECONDS = 3.0
_MOST = 10_000


class Absent:
    """By key, for a few seconds. Whoever makes a row meanwhile does so under the lease of the chat's shard, and what is written then is
    the newest state there is (semantics §5)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._when: dict[str, float] = {}

    def note(self, keys: Iterable[str], asked: float) -> None:
        """They were not there when Directus was asked, at this time of the clock."""
        for key in keys:
            self._when.pop(key, None)
            self._when[key] = asked
        while len(self._when) > _MOST:
            del self._when[next(iter(self._when))]

    def now(self) -> float:
        """For `note`."""
        return self._clock()

    def take(self, key: str) -> bool:
        """Whether it is not there, as far as is known; asked once, for afterwards it may be."""
        when = self._when.pop(key, None)
        return when is not None and self._clock() - when <= _SECONDS
