"""Each call has a deadline, and one timer sees to all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from sidecar import Unavailable


class Deadlines:
    """Ends calls whose time is over. All may take equally long, so the oldest is the first; belongs to one event loop."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: float, answer: asyncio.Future[Any]) -> None:
        """The call that waits for this answer gets `Unavailable` at its deadline, whatever it waits for; a later answer is dropped."""
        calls = self._calls
        while calls and calls[0][1].done():
            calls.popleft()
        calls.append((deadline, answer))
        if self._timer is None:
            self._timer = answer.get_loop().call_at(calls[0][0], self._end_some)

    def _end_some(self) -> None:
        calls, self._timer = self._calls, None
        loop = asyncio.get_running_loop()
        while calls and (calls[0][1].done() or calls[0][0] <= loop.time()):
            _, answer = calls.popleft()
            if not answer.done():
                answer.set_exception(Unavailable("cache", "Redis did not answer in time", retry_after=0.2))
        if calls:
            self._timer = loop.call_at(calls[0][0], self._end_some)

    def close(self) -> None:
        """Nothing is ended any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
