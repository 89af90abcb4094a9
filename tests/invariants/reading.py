"""All keys of a cache, as they stand on the server, and packed records by the names of their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
from redis.asyncio import Redis


async def everything(client: Redis, prefix: str) -> dict[str, Any]:
    names = [name async for name in client.scan_iter(match=f"{prefix}:{{*", count=1000)]
    asking = client.pipeline(transaction=False)
    for name in names:
        asking.type(name)
    kinds = await asking.execute()
    for name, kind in zip(names, kinds, strict=True):
        match kind:
            case b"hash":
                asking.hgetall(name)
            case b"list":
                asking.lrange(name, 0, -1)
            case b"zset":
                asking.zrange(name, 0, -1, withscores=True)
            case b"set":
                asking.smembers(name)
            case _:
                asking.get(name)
    values = await asking.execute()
    return {text(name): _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: Any) -> Any:
    """A sorted set as a map of scores."""
    if isinstance(value, list) and value and isinstance(value[0], list | tuple):
        return dict(value)
    return value


def text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def named(names: Sequence[str], packed: bytes) -> dict[str, Any]:
    """A packed array by the names of its places."""
    values = msgpack.unpackb(packed, raw=True, strict_map_key=False)
    assert len(values) == len(names), f"{len(values)} places instead of {len(names)}"
    return dict(zip(names, values, strict=True))
