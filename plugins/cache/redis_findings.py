"""What `sidecar doctor` asks of Redis beyond what decides whether it can be used."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from plugins.cache.redis_link import Link
from plugins.cache.redis_refusals import reason_of
from sidecar import Finding, Unavailable, clock_finding

_FULL = 0.8
_SLOW_SECONDS = 0.01
_LOOKS = 5
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


async def examine(link: Link, url: str) -> Sequence[Finding]:
    """Asks every primary, and looks at the way there. Raises `Unavailable` when one cannot be asked."""
    found: dict[str, Finding] = {finding.code: finding for finding in _way(url)}
    clients = await link.clients()
    try:
        for client in clients:
            async for finding in _examine(client):
                found.setdefault(finding.code, finding)
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("cache", reason_of(error)) from None
    finally:
        for client in clients:
            await client.aclose()
    return list(found.values())


def _way(url: str) -> Sequence[Finding]:
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname in _HERE:
        return []
    found = []
    if parts.scheme == "redis":
        found.append(
            Finding(
                "plain",
                "warning",
                f"the way to Redis on {parts.hostname} is not encrypted: texts are sealed, the password is not",
                "use rediss:// in cache.options.url, or a network of the two hosts' own",
            )
        )
    if not parts.password:
        found.append(
            Finding(
                "password",
                "warning",
                f"Redis on {parts.hostname} is asked without a password: who reaches it can delete every draft",
                "give the sidecar a user of its own (docs/redis.md) and name it in cache.options.url",
            )
        )
    return found


async def _examine(client: Redis) -> AsyncIterator[Finding]:
    info: Mapping[str, Any] = await client.info()
    took = []
    for _ in range(_LOOKS):
        before = time.perf_counter()
        seconds, microseconds = await client.time()
        took.append(time.perf_counter() - before)
    theirs = datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)
    clock = clock_finding("Redis", theirs, datetime.now(UTC))
    if clock is not None:
        yield clock
    if min(took) > _SLOW_SECONDS:
        yield Finding(
            "slow",
            "warning",
            f"an answer of Redis takes {min(took) * 1000:.0f} ms, and every edit waits for one",
            "run it near the sidecar: in the same network, on a host that is not overloaded",
        )
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        yield Finding(
            "memory-unlimited",
            "note",
            "Redis has no limit of its memory: when the host is full, the kernel may kill it",
            "set maxmemory below what the host can spare; the sidecar then refuses new texts instead",
        )
    elif used > most * _FULL:
        yield Finding(
            "memory",
            "warning",
            f"Redis has used {used * 100 // most} % of maxmemory; when it is full, nothing new is accepted",
            "raise maxmemory, or lower chats.ttl and limits.bytes_per_user",
        )
    if str(info.get("rdb_last_bgsave_status", "ok")) != "ok":
        yield Finding(
            "saving",
            "error",
            "Redis could not save its data: it refuses every write if stop-writes-on-bgsave-error is on",
            "look at its log and its disk",
        )
    if str(info.get("aof_enabled", "0")) == "1":
        try:
            fsync = str((await client.config_get("appendfsync")).get("appendfsync", "everysec"))
        except (NoPermissionError, RedisError):
            return  # the user that docs/redis.md names may not ask for everything
        if fsync == "no":
            yield Finding(
                "fsync",
                "warning",
                "Redis leaves it to the kernel when its append-only file reaches the disk: half a minute may be lost",
                "set appendfsync everysec",
            )
