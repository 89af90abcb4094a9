"""The script is the twin of `decide`: the same 100,000 random changes through the memory cache and through a real Redis.

Every answer is compared, and so is everything that can be read: chats, logs, what waits in the outbox, what is parked. Another
and longer play: `TWIN_CHANGES=1000000 TWIN_SEED=7 .venv/bin/pytest -n 2 tests/twin`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from plugins.cache.redis_link import Link
from sidecar.ids import hash_user
from tests.services.redis_server import RedisServer
from tests.twin.pair import Pair, memory_cache, redis_cache
from tests.twin.player import Player

CHANGES = int(os.environ.get("TWIN_CHANGES", "100000"))
SEED = int(os.environ.get("TWIN_SEED", "0"))
TESTS = 4
PERSONS = 25
"""Who play at the same time, each on a cache of their own."""


@pytest.mark.timeout(0 if "TWIN_CHANGES" in os.environ else 300)
@pytest.mark.parametrize("number", range(TESTS))
async def test_the_script_decides_as_the_rule_does(number: int, redis_server: RedisServer, tmp_path: Path) -> None:
    """S10, S14, S16, S17, S23, S28, S30, S67–S71: whatever the rule promises holds for the script."""
    each = CHANGES // TESTS // PERSONS
    async with Link(redis_server.url, cluster=False, timeout=30, pool=2) as link:

        async def one(person: int) -> int:
            user = hash_user(f"person {person}")
            pair = await Pair.begin(user, await memory_cache(tmp_path), redis_cache(link, f"twin-{number}-{person}"))
            player = Player(pair, user, seed=((SEED * TESTS) + number) * 1000 + person)
            await player.play(each)
            return player.played

        played = await asyncio.gather(*(one(person) for person in range(PERSONS)))
    assert sum(played) >= each * PERSONS
