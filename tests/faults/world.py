"""What the fault tests share: a Redis behind a proxy that fails on command, a sidecar or a bare cache on it, and measures."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from plugins.cache.redis import Redis
from sidecar import Cache, Surroundings
from sidecar.server.running import Server, serving
from tests.conftest import configure
from tests.faults.careful import LIMITS, SEED, Crowd
from tests.invariants import broken
from tests.services.redis_server import RedisServer

_KEY = base64.b64encode(b"a key for tests, 32 bytes long..").decode()
AT_ONCE = {"debounce": "0s", "max_debounce": "0s"}


@asynccontextmanager
async def sidecar(
    folder: Path, url: str, *, name: str = "one", options: dict[str, Any] | None = None, **sections: Any
) -> AsyncIterator[Server]:
    """A whole sidecar in this process whose cache is at `url`. Sidecars of one folder share keys and store."""
    own = folder / name
    own.mkdir(exist_ok=True)
    sections = {
        "cache": {"use": "redis", "options": {"url": url, "shards": 4, **(options or {})}},
        "encryption": {"use": "local", "options": {"path": str(folder / "keys"), "master_key": _KEY}},
        "persistence": {"use": "sqlite", "options": {"path": str(folder / "store.sqlite")}},
        "limits": LIMITS,
        **sections,
    }
    async with serving(configure(own, **sections)) as server:
        yield server


@asynccontextmanager
async def crowded(folder: Path, url: str, devices: int = 3) -> AsyncIterator[tuple[Server, Crowd]]:
    """Two sidecars on one cache and careful clients on both: so many devices of alice's and as many of bob's. The first of the
    sidecars is for looking at."""
    async with (
        sidecar(folder, url) as one,
        sidecar(folder, url, name="other") as other,
        Crowd(["alice", "bob"], devices, one.url, other.url, seed=SEED) as crowd,
    ):
        yield one, crowd


@asynccontextmanager
async def bare_cache(folder: Path, url: str, **options: Any) -> AsyncIterator[tuple[Redis, Cache]]:
    """The plugin alone, with its cache; `persistence` listens to it."""
    options = {"shards": 1, **options}
    plugin = Redis(Redis.Options(url=SecretStr(url), **options), Surroundings(folder, "127.0.0.1"))
    async with plugin:
        cache = await plugin.provide_cache()
        await cache.outbox.join(["persistence"])
        yield plugin, cache


async def sound(server: RedisServer, *, natural: bool = True) -> None:
    """The keys fit together. Nobody may write meanwhile, so it looks again where somebody did."""
    async with server.client() as client:
        for _ in range(20):
            if not (found := await broken(client, natural=natural)):
                return
            await asyncio.sleep(0.1)
    raise AssertionError("\n".join(found))


async def get(server: Server, path: str) -> tuple[int, Any]:
    """Status and JSON."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}{path}") as response:
        return response.status, await response.json()


async def ready(server: Server) -> bool:
    return (await get(server, "/readyz"))[0] == 200


@dataclass(slots=True)
class Lag:
    """How long the loop was held up at the longest, in seconds."""

    longest: float = 0.0


@asynccontextmanager
async def measured() -> AsyncIterator[Lag]:
    """Within it the loop's lag is measured."""
    lag, loop = Lag(), asyncio.get_running_loop()

    async def look() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            lag.longest = max(lag.longest, loop.time() - before - 0.005)

    looking = loop.create_task(look())
    try:
        yield lag
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
