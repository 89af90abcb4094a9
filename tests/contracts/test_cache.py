"""Every built-in cache passes the contract of its slot, whose tests (`sidecar.testing.cache_…`) show these rows:

S9, S10, S11, S12, S13, S14, S16, S17, S18, S20, S22, S23, S25, S28, S40, S41, S44, S45, S48, S52, S67, S68, S69,
S70, S71, S74, T2, T23, T52, F6, F7, F8, F10, F15, F38, F44, F47, F50, F51, F52.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from plugins.cache.memory import Memory
from plugins.cache.redis import Redis
from sidecar.plugin_entry import Surroundings
from sidecar.slots.cache import Cache
from sidecar.testing.cache import CacheContract
from tests.services.cluster import RedisCluster
from tests.services.fixtures import StartRedis


class _Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class TestMemory(CacheContract):
    """The memory cache with its journal."""

    journal = True

    @pytest_asyncio.fixture
    async def cache(self, tmp_path: Path) -> AsyncIterator[Cache]:
        self._clock = _Clock()
        options = Memory.Options(journal=self.journal)
        self._plugin = Memory(options, Surroundings(tmp_path, "127.0.0.1"), clock=self._clock)
        async with self._plugin:
            yield await self._plugin.provide_cache()

    async def travel(self, seconds: float) -> None:
        self._clock.now += seconds

    async def break_backend(self) -> None:
        await self._plugin.__aexit__(None, None, None)


class TestMemoryWithoutJournal(TestMemory):
    """The same without a file."""

    journal = False

    @pytest.fixture(autouse=True)
    def _no_files(self, tmp_path: Path) -> Iterator[None]:
        yield
        assert list(tmp_path.iterdir()) == []


class TestRedis(CacheContract):
    """The Redis cache on a real server, whose clock the scripts are told to be ahead of."""

    @pytest_asyncio.fixture
    async def cache(self, start_redis: StartRedis, tmp_path: Path) -> AsyncIterator[Cache]:
        self._server = await start_redis()
        self._plugin = Redis(
            Redis.Options(url=SecretStr(self._server.url), shards=1), Surroundings(tmp_path, "127.0.0.1")
        )
        async with self._plugin:
            yield await self._plugin.provide_cache()

    async def travel(self, seconds: float) -> None:
        self._plugin._settings.skew += seconds

    async def break_backend(self) -> None:
        self._server.kill()


class TestRedisCluster(TestRedis):
    """The same on a Redis Cluster of three primaries."""

    @pytest_asyncio.fixture
    async def cache(  # type: ignore[override]  # another server
        self, redis_cluster: RedisCluster, tmp_path: Path
    ) -> AsyncIterator[Cache]:
        options = Redis.Options(url=SecretStr(redis_cluster.url), cluster=True, shards=1)
        self._plugin = Redis(options, Surroundings(tmp_path, "127.0.0.1"))
        async with self._plugin:
            yield await self._plugin.provide_cache()

    async def break_backend(self) -> None:
        await self._plugin.__aexit__(None, None, None)
