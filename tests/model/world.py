"""What outlives a process: files, keys, the clock, the network; and the one process that lives there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from sidecar import UserHash
from sidecar.metrics import Metrics
from tests.model.caches import Caches
from tests.model.clock import VirtualLoop, Wall
from tests.model.life import LIMITS, Ground, Life
from tests.model.link import Link, Reader
from tests.model.weather import Keyring, Weather

_FOR_GOOD = 10**9


class World:
    """Files, keys, clock and network, and the process that lives there. `folder` is its own.

    `caches` says which cache it is; `real_keys` takes `encryption.local` instead of the quick cipher.
    """

    def __init__(
        self, folder: Path, seed: int, metrics: Metrics, *, caches: Callable[[Path], Caches], real_keys: bool
    ) -> None:
        self.chance = Random(seed)
        self.weather = Weather(self.chance)
        self.loop = VirtualLoop(self.chance)
        self.lives = 0
        self.losses = 0
        """How often something was lost, or may have been."""
        self.broken = False
        """Something was raised: the run is over."""
        self.links: list[Link] = []
        self._wall = Wall(self.loop)
        self._ground = Ground(
            folder, self.loop, self._wall, self.weather, metrics, caches(folder), None if real_keys else Keyring()
        )
        self._numbers = 0
        self._connections = 0
        self._start()

    def run(self, work: Any) -> Any:
        """Runs until this is done. Raises what clients found broken meanwhile."""
        try:
            return self.loop.run(work)
        except BaseException:
            self.broken = True
            raise

    def pass_time(self, seconds: float) -> None:
        """Lets everything run for so long."""
        self.run(asyncio.sleep(seconds))

    def sleep(self, seconds: float) -> None:
        """Nothing runs for so long. Then every socket is found silent and is closed."""
        self._wall.ahead += seconds
        if seconds > LIMITS.draft_ttl:
            self.losses += 1  # drafts of chats without a message end then
        links, self.links = self.links, []
        for link in links:
            link.break_off(_FOR_GOOD)

    def number(self) -> int:
        """Another one each time."""
        self._numbers += 1
        return self._numbers

    def connect(self, reader: Reader, user: UserHash, device: str) -> Link:
        self._connections += 1
        link = Link(self.loop, self.weather, reader, user, device, self._connections)
        self.links = [each for each in self.links if each.served is not None and not each.served.done()]
        self.links.append(link)
        self.life.accept(link)
        return link

    def kill(self, arriving: int, *, lose_cache: bool = False) -> None:
        """The process dies and another one starts on its files; with `lose_cache` all that the cache had is gone."""
        links, self.links = self.links, []
        self.run(self.life.kill())
        for link in links:
            link.break_off(arriving)
        if lose_cache:
            self.losses += 1
            self._ground.caches.lose()
        self.lives += 1
        self._start()

    def _start(self) -> None:
        self.life = Life(self._ground, self.lives)
        self.run(self.life.start())

    def close(self) -> None:
        """Ends the process and the loop, whatever was broken."""
        try:
            self.loop.wind_up(self.life.kill())
        finally:
            self._ground.caches.close()
