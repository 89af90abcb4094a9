"""Lives end also where nobody comes by: one process of all looks after a shard's persons when their time has come."""

from __future__ import annotations

import asyncio

import structlog

from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_link import Link
from plugins.cache.redis_settings import ScriptSettings
from sidecar import Leases, Unavailable, UserHash

_EVERY_SECONDS = 5.0
_PERSONS = 100
"""Of one shard, at a time; more than that are looked after in the next round."""

log = structlog.get_logger("plugins.cache.redis")


async def sweep(link: Link, settings: ScriptSettings, chats: RedisChats, leases: Leases) -> None:
    """Runs for good."""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        try:
            # One process does it: the others would only ask the same.
            if await leases.take("sweep", settings.process, 3 * _EVERY_SECONDS) is not None:
                await sweep_once(link, settings, chats)
        except Unavailable as error:
            log.debug("sweep_waits", part=error.part)
        except Exception as error:  # noqa: BLE001  # lives that end late harm nobody; the next round goes on
            log.error("sweep_failed", error=type(error).__name__)


async def sweep_once(link: Link, settings: ScriptSettings, chats: RedisChats) -> int:
    """Visits the persons whose time has come; how many. Shards that cannot be reached are looked after later."""
    keys = settings.keys
    found = await asyncio.gather(
        *(link.run("visits", (keys.visits(shard),), settings.packed(shard), _PERSONS) for shard in range(keys.shards)),
        return_exceptions=True,
    )
    users: list[UserHash] = []
    for answer in found:
        if isinstance(answer, Unavailable):
            continue
        if isinstance(answer, BaseException):
            raise answer
        users += (UserHash(user.decode()) for user in answer)
    await asyncio.gather(*(chats.sweep(user) for user in users))
    return len(users)
