"""Lives end alike in both caches: the same play with hours in between, and what Redis keeps fits together at every rest."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

import pytest

from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_link import Link
from sidecar.ids import hash_user
from tests.invariants import broken
from tests.services.redis_server import RedisServer
from tests.twin.pair import Pair, memory_cache, redis_cache
from tests.twin.player import Player

_PERSONS = 12
_RESTS = 40
_HOURS = (430.0, 1010.0, 1950.0, 5000.0)
"""Seconds. No sum of them is near 1,800, at which a life ends: the two sides do not touch a chat in the same millisecond."""


class _Clock:
    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.mark.timeout(300)
async def test_f15_lives_end_alike(redis_server: RedisServer, tmp_path: Path) -> None:
    """F15, S48, T52: what is over counts no more, comes back by no fill, and leaves nothing behind that nobody looks at."""
    async with Link(redis_server.url, cluster=False, timeout=30, pool=2) as link, redis_server.client() as client:

        async def one(person: int) -> None:
            clock = _Clock()
            redis = redis_cache(link, f"lives-{person}")
            user = hash_user(f"person {person}")
            pair = await Pair.begin(user, await memory_cache(tmp_path, clock), redis)
            player = Player(pair, user, seed=person)
            for rest in range(1, _RESTS + 1):
                await player.play(20 * rest)
                assert await broken(client, f"lives-{person}", natural=False) == []
                seconds = player.chance.choice(_HOURS)
                clock.ahead += seconds
                cast("RedisChats", redis.chats)._settings.skew += seconds
                await pair.hold()

        await asyncio.gather(*(one(person) for person in range(_PERSONS)))
