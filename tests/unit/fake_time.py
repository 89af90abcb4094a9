"""Time that a test moves on."""

from __future__ import annotations

import asyncio
import heapq
import itertools

_TURNS = 6
"""Of the loop, until whoever was woken up sleeps again or is done."""


class FakeTime:
    """`clock` and `sleep` for what takes them as arguments; nothing goes on but in `run`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._numbers), woken))
        await woken

    async def run(self, seconds: float) -> None:
        """So much time goes by, and everybody is woken up in between whose time has come."""
        until = self.now + seconds
        await self.settle()
        while self._sleeping and self._sleeping[0][0] <= until:
            self.now, _, woken = heapq.heappop(self._sleeping)
            if not woken.done():
                woken.set_result(None)
            await self.settle()
        self.now = until

    async def settle(self) -> None:
        """Everybody goes on as far as no time goes by."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
