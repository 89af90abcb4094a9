"""What a Directus gives at most: rows created in batches by a loop that does nothing else."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from bench.directus_home import Home
from bench.editing import BenchFailed
from plugins.persistence.directus_rows import CHAT_FIELDS, MESSAGE_FIELDS

_ROWS = 100
"""Of one call."""

Row = Mapping[str, Any]


class RawDirectus:
    """Creates rows that are like those which the sidecar wrote, over keep-alive connections, under its own account."""

    def __init__(self, home: Home, chat: Row, message: Row, calls: int) -> None:
        self._home = home
        self._chat = chat
        self._message = message
        self._calls = calls
        self._known: list[str] = []
        """Keys of chats that were made."""

    @classmethod
    async def like(cls, home: Home, calls: int) -> RawDirectus:
        """With a chat and a message that are there as the pattern, and so many calls under way at once."""

        async def one(name: str, fields: Sequence[str]) -> Row:
            found: list[Row] = await home.server.ask(
                "SEARCH", f"/items/{name}", {"query": {"fields": list(fields), "limit": 1}}
            )
            if not found:
                raise BenchFailed(f"the sidecar wrote nothing to {name}")
            return found[0]

        return cls(
            home,
            await one(home.names.chats, CHAT_FIELDS),
            await one(home.names.messages, (*MESSAGE_FIELDS, "message_id")),
            calls,
        )

    async def first_messages(self, seconds: float) -> float:
        """Chats with their first message per second, both made in one; 100 rows are 50 of them."""
        return await self._create(seconds, lambda: [self._with_chat() for _ in range(_ROWS // 2)])

    async def messages(self, seconds: float) -> float:
        """Messages per second, into the chats that were made."""
        return await self._create(seconds, lambda: [self._of(secrets.choice(self._known)) for _ in range(_ROWS)])

    def _with_chat(self) -> Row:
        key = f"{str(self._chat['id'])[:-32]}{secrets.token_hex(16)}"
        self._known.append(key)
        return {**self._of(key), "chat_id": {**self._chat, "id": key}}

    def _of(self, chat: str) -> Row:
        new = secrets.token_hex(max(1, len(str(self._message["message_id"])) // 2))
        return {**self._message, "id": f"{chat}_{new}", "message_id": new, "chat_id": chat}

    async def _create(self, seconds: float, made: Callable[[], Sequence[Row]]) -> float:
        headers = {"Authorization": f"Bearer {self._home.token}", "Content-Type": "application/json"}
        url = f"{self._home.server.url}/items/{self._home.names.messages}?fields=id"
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            began = time.perf_counter()

            async def loop() -> int:
                count = 0
                while time.perf_counter() < began + seconds:
                    rows = made()
                    async with session.post(url, data=orjson.dumps(rows)) as answer:
                        told = await answer.read()
                    if answer.status != 200:
                        raise BenchFailed(f"Directus answered {answer.status} {told[:300].decode(errors='replace')}")
                    count += len(rows)
                return count

            counts = await asyncio.gather(*(loop() for _ in range(self._calls)))
            return sum(counts) / (time.perf_counter() - began)
