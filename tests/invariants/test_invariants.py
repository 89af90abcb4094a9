"""Whoever damages the keys is noticed: a check that finds nothing would be worth nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest
from redis.asyncio import Redis

from plugins.cache.redis_layout import CHAT, PERSON
from plugins.cache.redis_link import Link
from sidecar.changes import PutDraft
from sidecar.testing.cache_writer import Writer, sealed
from tests.invariants import broken
from tests.services.redis_server import RedisServer
from tests.twin.pair import redis_cache

Damage = Callable[[Redis, str, str], Awaitable[Any]]
"""Of the server, the beginning of the person's keys, and the name of a chat with a message."""


async def run(client: Redis, *command: str | bytes) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]


def _changed(names: tuple[str, ...], place: str, value: Any) -> Callable[[bytes], bytes]:
    def change(packed: bytes) -> bytes:
        values = msgpack.unpackb(packed, raw=True)
        values[names.index(place)] = value
        return bytes(msgpack.packb(values, use_bin_type=False))

    return change


def _of_hash(key: str, name: str, change: Callable[[bytes], bytes] | None) -> Damage:
    """Changes a field of one of the person's keys (`{chat}` stands for the chat), or takes it away."""

    async def damage(client: Redis, user: str, chat: str) -> None:
        hash_key, field = f"damaged:{{0}}:{key.format(user=user)}", name.format(chat=chat)
        value = await run(client, "HGET", hash_key, field)
        assert value is not None, f"{hash_key} has no {field}"
        if change is None:
            await run(client, "HDEL", hash_key, field)
        else:
            await run(client, "HSET", hash_key, field, change(value))

    return damage


def _of_key(key: str, command: str, *arguments: str) -> Damage:
    async def damage(client: Redis, user: str, chat: str) -> None:
        named = [each.format(user=user, chat=chat) for each in arguments]
        done = await run(client, command, f"damaged:{{0}}:{key.format(user=user)}", *named)
        assert done, f"{command} changed nothing"

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "usage": (_of_hash("person:{user}", "p", _changed(PERSON, "p_bytes", 1)), "and says 1 in"),
    "the log's end": (_of_hash("person:{user}", "p", _changed(PERSON, "p_end", 77)), "the log goes from 0 to 77"),
    "the last tag": (_of_hash("person:{user}", "p", _changed(PERSON, "p_tag", "no")), "the log ends with"),
    "a lost entry of the log": (_of_key("log:{user}", "RPOP"), "the log goes from"),
    "a draft's text": (_of_hash("person:{user}", "d:{chat}", lambda _: b"short"), "bytes and says"),
    "a draft that is gone": (_of_hash("person:{user}", "d:{chat}", None), "d has None bytes"),
    "a message's text": (_of_hash("person:{user}", "m:{chat}", None), "is in no index"),
    "a chat that is gone": (_of_hash("person:{user}", "c:{chat}", None), "without its chat"),
    "a chat's state": (_of_hash("person:{user}", "c:{chat}", _changed(CHAT, "draft_state", "none")), "b'none' with"),
    "evictable": (_of_hash("person:{user}", "c:{chat}", _changed(CHAT, "evictable", True)), "may be evicted"),
    "an end": (_of_key("ends:{user}", "ZREM", "{chat}"), "here and never looked at"),
    "a place among the used": (_of_key("lru:{user}", "ZADD", "1", "{chat}"), "in the order of use"),
    "outcomes": (_of_key("outcomes:{user}", "LPOP"), "an outcome that is never forgotten"),
    "what is due": (_of_key("due", "ZREM", "{user}:{chat}"), "due: False, and says"),
    "a visit": (_of_key("visits", "ZREM", "{user}"), "is visited at None"),
    "what waits": (_of_key("waiting", "DEL"), "members that the index has not"),
    "the index": (_of_key("index", "DEL"), "members that the index has not"),
    "what is parked": (_of_key("outbox", "HSET", "k:persistence\x1f{user}:{chat}", "2"), "parked: {}, and says"),
    "a person": (_of_key("person:{user}", "DEL"), "without a person"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_noticed(redis_server: RedisServer, name: str) -> None:
    async with Link(redis_server.url, cluster=False, timeout=5, pool=2) as link, redis_server.client() as client:
        cache = redis_cache(link, "damaged")
        await cache.outbox.join(["persistence"])
        writer = Writer(cache)
        await writer.send("first")
        await writer.stored()
        await writer.accepted(PutDraft(sealed("a draft"), 0))
        await writer.send("second")
        assert await broken(client, "damaged") == []
        damage, says = DAMAGES[name]
        await damage(client, writer.user, writer.chat())
        found = await broken(client, "damaged")
        assert any(says in line for line in found), found
