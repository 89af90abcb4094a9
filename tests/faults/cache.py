"""A Redis cache behind a fault proxy, and a person who writes to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from plugins.cache.redis import Redis
from sidecar import Surroundings
from sidecar.slots.cache import Cache


@asynccontextmanager
async def cache_at(url: str, folder: Path, *, timeout: float = 0.5, shards: int = 1) -> AsyncIterator[Cache]:
    """The cache of one process; `timeout` in seconds for a call."""
    options = Redis.Options.model_construct(
        url=SecretStr(url), cluster=False, shards=shards, pool=3, timeout=timeout, prefix="sidecar"
    )
    async with Redis(options, Surroundings(folder, "127.0.0.1")) as plugin:
        yield await plugin.provide_cache()
