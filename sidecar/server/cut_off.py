"""A process that is cut off from the cache which it shares with others sends its clients to them (F46).

It lets nobody in meanwhile, and `/readyz` says why. Where the cache is this process' own there is nowhere else to go: there
the sockets stay, and every frame is answered `unavailable` until the cache is back.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from sidecar.connections import Connection
from sidecar.errors import WireError
from sidecar.server.context import Context
from sidecar.slots.cache import Cache

_EVERY_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0
"""Without one answer of the cache, until the sockets are closed."""
_ANSWER_SECONDS = 2.0
_SPREAD_SECONDS = 2.0
"""Over which they are closed, so that they do not come to the others all at once."""
_BACK_SECONDS = 5.0
"""Within which a client that was turned away may come again, by chance."""

TRY_AGAIN_LATER = 1013

log = structlog.get_logger("sidecar.server")


async def watch_cache(context: Context) -> None:
    """Sees whether this process is cut off. Runs for good, unless the cache is its own."""
    cache = context.parts.cache
    if not cache.shared:
        return
    loop = asyncio.get_running_loop()
    answered = loop.time()
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        asked = loop.time()
        if await _answers(cache):
            answered = asked
            if context.cut_off:
                context.cut_off = False
                log.info("cache_is_back")
        elif loop.time() - answered >= _PATIENCE_SECONDS and not context.cut_off:
            context.cut_off = True
            log.error("cut_off", part="cache", seconds=_PATIENCE_SECONDS, connections=len(context.registry))
            context.keep(asyncio.create_task(_send_away(context)))


def turned_away() -> WireError:
    """What a client is told that comes meanwhile."""
    return WireError(
        "unavailable",
        "this server cannot reach its cache; reconnect, another one may serve you",
        retryable=True,
        retry_after_ms=round(random.uniform(1.0, _BACK_SECONDS) * 1000),  # noqa: S311  # jitter
        details={"part": "cache"},
        close=TRY_AGAIN_LATER,
    )


async def _answers(cache: Cache) -> bool:
    """Whether a shared cache answers, were it for one shard alone: that a node of a cluster is away is not this process' fault."""
    shards = cache.outbox.shards
    if await _answers_for(cache, random.randrange(shards)):  # noqa: S311
        return True
    others = await asyncio.gather(*(_answers_for(cache, shard) for shard in range(shards)))
    return any(others)


async def _answers_for(cache: Cache, shard: int) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await cache.leases.held(f"outbox:{shard}")
    except Exception:  # noqa: BLE001  # whatever it raises is no answer
        return False
    return True


async def _send_away(context: Context) -> None:
    """Closes the sockets one after the other, for as long as the cache stays away."""
    connections: list[Connection] = list(context.registry)
    random.shuffle(connections)
    pause = _SPREAD_SECONDS / max(1, len(connections))
    for connection in connections:
        if not context.cut_off:
            return
        connection.close(TRY_AGAIN_LATER, "this server cannot reach its cache; reconnect")
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
