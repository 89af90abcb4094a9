"""What kind of server this is, and whether drafts are safe on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from plugins.cache.redis_layout import LAYOUT, Keys
from plugins.cache.redis_link import Link
from plugins.cache.redis_refusals import reason_of
from sidecar import Finding, StartRefused, Unavailable

_OLDEST = (7, 0)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is wrong with the server."""

    code: str
    says: str
    remedy: str
    fatal: bool = False
    """The start is refused."""

    def finding(self) -> Finding:
        """As `doctor` says it."""
        severe = self.fatal or self.code == "disk"
        return Finding(self.code, "error" if severe else "warning", self.says, self.remedy)


def refuse(findings: Sequence[Flaw]) -> None:
    """Raises `StartRefused` with the first fatal finding."""
    for finding in findings:
        if finding.fatal:
            raise StartRefused("cache", f"{finding.says}; {finding.remedy}")


async def inspect(link: Link, keys: Keys) -> Sequence[Flaw]:
    """Asks the server that the URL names, and every primary. Raises `Unavailable` when one cannot be asked."""
    findings: dict[str, Flaw] = {}
    clients = [link.door()]
    try:
        if wrong := _kind(await clients[0].info(), cluster=link.is_cluster):
            return [wrong]
        if link.is_cluster:
            clients += await link.clients()
        for client in clients[1:] or clients:
            for finding in await _server(client):
                findings.setdefault(finding.code, finding)
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        return [
            Flaw(
                "credentials",
                f"Redis refuses this user ({type(error).__name__})",
                "set user and password in cache.options.url, or allow the user what docs/redis.md lists",
                fatal=True,
            )
        ]
    except BusyLoadingError as error:
        raise Unavailable("cache", reason_of(error), retry_after=0.5) from None
    except ResponseError as error:
        if "NOAUTH" in str(error).upper() or "WRONGPASS" in str(error).upper():
            return [Flaw("credentials", "Redis wants a password", "set it in cache.options.url", fatal=True)]
        raise Unavailable("cache", reason_of(error), retry_after=1.0) from None
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("cache", reason_of(error), retry_after=0.5) from None
    finally:
        for client in clients:
            await client.aclose()
    if not any(finding.fatal for finding in findings.values()):
        for finding in await agreed(link, keys):
            findings.setdefault(finding.code, finding)
    return list(findings.values())


async def agreed(link: Link, keys: Keys) -> Sequence[Flaw]:
    """What all processes have to do alike was written down by the first one. Raises `Unavailable`."""
    found: list[Flaw] = []
    layout = await _written(link, keys, "layout", LAYOUT)
    if layout != LAYOUT:
        newer = "use a sidecar as new as the others" if layout > LAYOUT else "use the sidecar that it was begun with"
        found.append(
            Flaw(
                "layout",
                f"this cache has layout {layout} and this sidecar writes layout {LAYOUT}",
                f"{newer}, or another prefix for a cache of its own",
                fatal=True,
            )
        )
    # Another number of shards would look for persons in the wrong place.
    shards = await _written(link, keys, "shards", keys.shards)
    if shards != keys.shards:
        found.append(
            Flaw(
                "shards",
                f"this cache was begun with {shards} shards and cache.options.shards is {keys.shards}",
                f"write shards: {shards}, or another prefix for a cache of its own",
                fatal=True,
            )
        )
    return found


async def _written(link: Link, keys: Keys, name: str, own: int) -> int:
    return int(await link.run("agreed", (f"{keys.prefix}:{name}".encode(),), own, anyway=True))


def _kind(info: Mapping[str, Any], *, cluster: bool) -> Flaw | None:
    """What is wrong with the option `cluster`. Dragonfly may be both; who does not say what it is may be either."""
    enabled = str(info.get("cluster_enabled", ""))
    if "dragonfly_version" in info or enabled not in ("0", "1") or (enabled == "1") == cluster:
        return None
    if cluster:
        return Flaw("cluster", "this Redis is no cluster", "set cache.options.cluster: false", fatal=True)
    return Flaw("cluster", "this Redis is a node of a cluster", "set cache.options.cluster: true", fatal=True)


async def _server(client: Redis) -> Sequence[Flaw]:
    info: Mapping[str, Any] = await client.info()
    found: list[Flaw] = []
    version = str(info.get("redis_version", "0"))
    if _numbers(version) < _OLDEST and "dragonfly_version" not in info and "valkey_version" not in info:
        found.append(Flaw("version", f"Redis {version} is too old", "use Redis 7, Valkey or Dragonfly", fatal=True))
    if str(info.get("role", "master")) not in ("master", "primary"):
        found.append(Flaw("replica", "this Redis is a replica", "point cache.options.url at the primary", fatal=True))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        found.append(
            Flaw(
                "eviction",
                f"Redis may drop drafts when it is full: maxmemory-policy is {policy}",
                "set maxmemory-policy noeviction; the sidecar evicts by itself what the store has",
                fatal=True,
            )
        )
    if "dragonfly_version" not in info:
        found += await _persistence(client, info)
    return found


async def _persistence(client: Redis, info: Mapping[str, Any]) -> Sequence[Flaw]:
    if str(info.get("aof_enabled", "0")) == "1":
        if str(info.get("aof_last_write_status", "ok")) != "ok":
            return [Flaw("disk", "Redis could not write its append-only file", "look at its log and its disk")]
        return []
    try:
        save = str((await client.config_get("save")).get("save", ""))
    except RedisError:
        return [
            Flaw(
                "persistence",
                "Redis keeps no append-only file, and whether it saves otherwise cannot be asked",
                "set appendonly yes: accepted drafts and messages survive its restart then",
            )
        ]
    says = "Redis saves from time to time only" if save.strip() else "Redis keeps nothing on disk"
    remedy = "set appendonly yes: accepted drafts and messages survive its restart then"
    return [Flaw("persistence", says, remedy)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
