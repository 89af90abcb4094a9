"""Who waits for logs to grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sidecar import UserHash

_MOST = 100_000  # persons that a slow watcher may lag behind; more are left out: the log is the truth


class _Watcher:
    __slots__ = ("grown", "wake")

    def __init__(self) -> None:
        self.grown: dict[UserHash, None] = {}
        self.wake: asyncio.Future[None] | None = None


class Watchers:
    """Each watcher hears of each person once for any number of changes that it has not heard of yet."""

    def __init__(self) -> None:
        self._watchers: list[_Watcher] = []

    def grew(self, user: UserHash) -> None:
        """This person's log grew."""
        for watcher in self._watchers:
            if len(watcher.grown) < _MOST:
                watcher.grown[user] = None
            if watcher.wake is not None and not watcher.wake.done():
                watcher.wake.set_result(None)

    async def watch(self) -> AsyncIterator[UserHash]:
        """Persons whose log grew since the first step of this iteration. Runs for good."""
        watcher = _Watcher()
        self._watchers.append(watcher)
        try:
            while True:
                while watcher.grown:
                    grown, watcher.grown = watcher.grown, {}
                    for user in grown:
                        yield user
                watcher.wake = asyncio.get_running_loop().create_future()
                await watcher.wake
                watcher.wake = None
        finally:
            self._watchers.remove(watcher)
