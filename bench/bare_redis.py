"""What the sidecar with a shared cache is compared with: the bare loop with the drafts in Redis, and nothing else.

One EVALSHA for each draft; what waits at the same moment leaves as one pipeline. The script stores the sealed draft and
counts its version, the answer and the event leave when Redis has answered. As in `bench.bare`, no rule, no log, no outbox,
no limits, no checks; nothing is read back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiohttp import WSMsgType, web
from redis.asyncio import Redis

from bench.bare import Bare, Person

_STORE = "redis.call('HSET', KEYS[1], 'draft', ARGV[1]) return redis.call('HINCRBY', KEYS[1], 'version', 1)"


class Drafts:
    """The drafts in Redis."""

    def __init__(self, redis: Redis, script: str) -> None:
        self._redis = redis
        self._script = script
        self._waiting: list[tuple[str, bytes, asyncio.Future[int]]] = []
        self._turn: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Drafts]:
        async with Redis.from_url(url) as redis:
            yield cls(redis, await redis.script_load(_STORE))

    async def store(self, key: str, sealed: bytes) -> int:
        """The new version."""
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, sealed, stored))
        if self._turn is None:
            self._turn = asyncio.create_task(self._send())
        return await stored

    async def _send(self) -> None:
        while self._waiting:
            leaving, self._waiting = self._waiting, []
            pipeline = self._redis.pipeline(transaction=False)
            for key, sealed, _ in leaving:
                pipeline.evalsha(self._script, 1, key, sealed)
            for (_, _, stored), version in zip(leaving, await pipeline.execute(), strict=True):
                stored.set_result(version)
        self._turn = None


class BareRedis(Bare):
    """The loop."""

    def __init__(self, drafts: Drafts) -> None:
        super().__init__()
        self._drafts = drafts

    async def _draft(self, person: Person, ws: web.WebSocketResponse, frame: dict[str, dict[str, object]]) -> None:
        payload = frame["payload"]
        chat = str(payload.get("chatId") or payload.get("tempChatId"))
        raw = orjson.dumps(payload["content"])
        nonce = os.urandom(12)
        sealed = nonce + person.aead.encrypt(nonce, raw, chat.encode())
        told = {"chatId": chat, "version": await self._drafts.store(f"draft:{chat}", sealed), "op": frame["id"]}
        begun = "tempChatId" in payload
        answer = {"type": "chat_initiated" if begun else "draft_updated", "re": frame["id"], "payload": told}
        event = {"type": "draft_updated", "payload": {**told, "content": orjson.Fragment(raw)}}
        encoded = orjson.dumps(event)
        for socket in person.sockets:
            if socket is not ws and not begun:
                await socket.send_frame(encoded, WSMsgType.TEXT)
        await ws.send_frame(orjson.dumps(answer), WSMsgType.TEXT)


@asynccontextmanager
async def with_redis(url: str) -> AsyncIterator[Bare]:
    """The loop that keeps the drafts in that Redis."""
    async with Drafts.connected(url) as drafts:
        yield BareRedis(drafts)
