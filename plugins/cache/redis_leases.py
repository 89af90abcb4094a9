"""Leases in Redis: places with an end, by the server's clock."""

from __future__ import annotations

from collections.abc import Mapping

from plugins.cache.redis_link import Link
from plugins.cache.redis_settings import ScriptSettings
from sidecar import Lease, Leases


class RedisLeases(Leases):
    """Leases in Redis."""

    def __init__(self, link: Link, settings: ScriptSettings) -> None:
        self._link = link
        self._settings = settings

    async def take(self, name: str, holder: str, seconds: float, places: int = 1, note: bytes = b"") -> Lease | None:
        shard, keys = self._settings.keys.lease(name)
        fence = await self._link.run(
            "lease", keys, self._settings.packed(shard), b"take", holder.encode(), round(seconds * 1000), places, note
        )
        return Lease(name, holder, int(fence)) if fence is not None else None

    async def leave(self, lease: Lease) -> None:
        shard, keys = self._settings.keys.lease(lease.name)
        await self._link.run(
            "lease", keys, self._settings.packed(shard), b"leave", lease.holder.encode(), str(lease.fence).encode()
        )

    async def held(self, name: str) -> Mapping[str, bytes]:
        shard, keys = self._settings.keys.lease(name)
        found = await self._link.run("lease", keys, self._settings.packed(shard), b"held")
        return {holder.decode(): note for holder, note in zip(found[::2], found[1::2], strict=True)}
