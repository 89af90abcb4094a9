"""The fixtures of the real servers, for `tests/conftest.py`.

A shared server is started once per pytest worker, by the first test that wants it, and handed to each test empty. What a test
does to a server itself (kill, pause, CONFIG SET) it does to one of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.services.cluster import RedisCluster
from tests.services.directus.installing import find_directus
from tests.services.directus.server import DirectusServer
from tests.services.postgres_server import PostgresServer
from tests.services.programs import Missing, find_faketime, find_postgres, find_redis, find_strace
from tests.services.redis_server import RedisServer
from tests.services.replicated_redis import ReplicatedRedis
from tests.services.several import several

StartCluster = Callable[..., Awaitable[RedisCluster]]
StartReplicated = Callable[..., Awaitable[ReplicatedRedis]]
StartDirectus = Callable[..., Awaitable[DirectusServer]]
StartRedis = Callable[..., Awaitable[RedisServer]]


@pytest.fixture(scope="session")
def _redis_program() -> None:
    """Skips by name where there is no redis-server; with CI=true that is a failure."""
    try:
        find_redis()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def strace() -> str:
    """The path of strace; skips by name where there is none."""
    try:
        return find_strace()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def faketime() -> str:
    """What a redis-server preloads to run at another time; skips by name where there is no libfaketime.

    The C library beside it takes jemalloc's place, which asks for the time before libfaketime is ready (wolfcw/libfaketime#130).
    """
    try:
        return f"{find_faketime(threads=False)} libc.so.6"
    except Missing as missing:
        pytest.skip(str(missing))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _shared_redis(_redis_program: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def redis_server(_shared_redis: RedisServer) -> AsyncIterator[RedisServer]:
    """An empty redis-server, that this test shares with those before and after it. Nothing of it is kept on disk."""
    await _shared_redis.clean()
    before = await _shared_redis.settings()
    yield _shared_redis
    assert _shared_redis.running, "a test that ends its server wants one of its own: start_redis"
    assert await _shared_redis.settings() == before, "a test that changes its server wants one of its own: start_redis"


@pytest.fixture
async def start_redis(_redis_program: None, tmp_path: Path) -> AsyncIterator[StartRedis]:
    """Starts servers of the test's own: `server = await start_redis(appendonly=True, appendfsync="always")`."""
    async with several(RedisServer, tmp_path / "redis") as start:
        yield start


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _shared_cluster(
    _redis_program: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RedisCluster]:
    async with RedisCluster(tmp_path_factory.mktemp("cluster"), node_timeout=30_000) as cluster:
        yield cluster


@pytest.fixture
async def redis_cluster(_shared_cluster: RedisCluster) -> AsyncIterator[RedisCluster]:
    """An empty cluster of three primaries, that this test shares with those before and after it."""
    await _shared_cluster.clean()
    before = [await node.settings() for node in _shared_cluster.nodes], await _shared_cluster.slots()
    yield _shared_cluster
    after = [await node.settings() for node in _shared_cluster.nodes], await _shared_cluster.slots()
    assert before == after, "a test that changes its cluster wants one of its own: start_cluster"


@pytest.fixture
async def start_cluster(_redis_program: None, tmp_path: Path) -> AsyncIterator[StartCluster]:
    """Starts clusters of the test's own: `cluster = await start_cluster(replicas=1, proxied=True, appendonly=True)`."""
    async with several(RedisCluster, tmp_path / "cluster") as start:
        yield start


@pytest.fixture
async def start_replicated(_redis_program: None, tmp_path: Path) -> AsyncIterator[StartReplicated]:
    """Starts a primary with one replica of the test's own: `pair = await start_replicated(appendonly=True)`."""
    async with several(ReplicatedRedis, tmp_path / "pair") as start:
        yield start


@pytest.fixture(scope="session")
def _directus_installed() -> None:
    """Skips by name where there is no Directus; with CI=true that is a failure."""
    try:
        find_directus()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def directus_server(
    _directus_installed: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DirectusServer]:
    """A Directus on SQLite that all tests of this pytest worker share, with all that they leave there: use collections and
    people of your own, and leave its life and settings alone. It starts in 5 to 15 s."""
    async with DirectusServer(tmp_path_factory.mktemp("directus")) as server:
        yield server
        assert server.running, "a test that ends its server wants one of its own: start_directus"


@pytest.fixture
async def start_directus(_directus_installed: None, tmp_path: Path) -> AsyncIterator[StartDirectus]:
    """Starts servers of the test's own: `server = await start_directus(RATE_LIMITER_ENABLED="true", RATE_LIMITER_POINTS="5")`."""
    async with several(DirectusServer, tmp_path / "directus") as start:
        yield start


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[PostgresServer]:
    """An empty PostgreSQL of the test's own: `await start_directus(**postgres.for_directus())`. Skips by name where there is none."""
    try:
        find_postgres()
    except Missing as missing:
        pytest.skip(str(missing))
    async with PostgresServer(tmp_path / "postgres") as server:
        yield server
