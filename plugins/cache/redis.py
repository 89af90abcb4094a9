"""The cache `redis`: shared by any number of sidecar processes on any number of hosts.

Redis 7, Valkey, Dragonfly, or a Redis Cluster. docs/redis.md has the key layout, sizing, and what is lost when Redis is lost.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import structlog
from pydantic import BaseModel, Field, SecretStr, field_validator

from plugins.cache.memory_watch import Watchers
from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_findings import examine
from plugins.cache.redis_layout import Keys
from plugins.cache.redis_leases import RedisLeases
from plugins.cache.redis_link import Link
from plugins.cache.redis_notices import Notices
from plugins.cache.redis_outbox import RedisOutbox
from plugins.cache.redis_server import Flaw, agreed, inspect, refuse
from plugins.cache.redis_settings import ScriptSettings
from plugins.cache.redis_sweep import sweep
from plugins.cache.redis_tails import Tails
from plugins.cache.redis_tasks import end
from sidecar import Cache, ChatId, ChatInDB, Duration, Finding, Page, Surroundings, Unavailable, UserHash, hookimpl

log = structlog.get_logger("plugins.cache.redis")

_AGAIN_SECONDS = 0.5
"""Between two looks at a server that cannot be used yet."""
_EVERY_SECONDS = 5.0


class Redis:
    """Chats, outbox and leases in Redis.

    A server that answers and cannot be used refuses the start (`StartRefused`): one that may evict drafts, is too old, holds
    another number of shards or another layout. One that does not answer is waited for: until it does, and can be used, every
    call says `Unavailable`.
    """

    api = 1

    class Options(BaseModel, extra="forbid"):
        url: SecretStr = Field(
            default=SecretStr("redis://127.0.0.1:6379/0"),
            description="redis://, rediss:// (TLS) or unix:// with user, password and database; of a cluster any node.",
        )
        cluster: bool = Field(default=False, description="The server is a Redis Cluster.")
        shards: Annotated[int, Field(ge=1, le=4096)] = Field(
            default=64,
            description="Into how many parts persons are divided. It cannot be changed while there is anything in the cache.",
        )
        pool: Annotated[int, Field(ge=2, le=64)] = Field(
            default=3,
            description="Connections of a process to one server: one for changes, the others for everything else.",
        )
        timeout: Annotated[float, Duration(0.05, 30)] = Field(
            default=1.0, description="What a call may take, waiting included, before it is answered `unavailable`."
        )
        prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = Field(
            default="sidecar",
            description="What every key begins with; several projects on one server need different ones.",
        )

        @field_validator("url")
        @classmethod
        def _known_scheme(cls, value: SecretStr) -> SecretStr:
            parts = urlsplit(value.get_secret_value())
            if parts.scheme not in ("redis", "rediss", "unix"):
                raise ValueError("write redis://host:6379/0, rediss:// for TLS, or unix:///path/to/redis.sock")
            return value

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        process = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._keys = Keys(options.prefix, options.shards)
        self._settings = ScriptSettings(self._keys, process)
        url = options.url.get_secret_value()
        self._link = Link(url, cluster=options.cluster, timeout=options.timeout, pool=options.pool)
        self._tails = Tails()
        watchers = Watchers()
        self._notices = Notices(self._link, self._keys, process, self._settings.packed, self._tails, watchers)
        self._chats = RedisChats(self._link, self._settings, self._tails, self._notices, watchers)
        outbox = RedisOutbox(self._link, self._settings, self._chats)
        self._cache = Cache(self._chats, outbox, RedisLeases(self._link, self._settings), shared=True)
        self._stack = AsyncExitStack()
        self._inspected = False
        self._found: Sequence[Flaw] = ()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._link)
            try:
                await self._inspect()
            except Unavailable as error:
                log.warning("redis_waited_for", reason=error.reason)
                self._link.barred = error.reason or "Redis does not answer"
            looking = asyncio.get_running_loop().create_task(self._look_after())
            stack.push_async_callback(end, looking)
            await stack.enter_async_context(self._notices)
            sweeping = asyncio.get_running_loop().create_task(
                sweep(self._link, self._settings, self._chats, self._cache.leases)
            )
            stack.push_async_callback(end, sweeping)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _inspect(self) -> None:
        """Raises `StartRefused` and `Unavailable`."""
        self._found = await inspect(self._link, self._keys)
        refuse(self._found)
        for finding in self._found:
            log.warning("redis_finding", code=finding.code, reason=finding.says, remedy=finding.remedy)
        self._inspected = True

    async def _look_after(self) -> None:
        """Sees that this server can be used, and still is the one that was agreed on. Runs for good.

        The process serves already, so that a server which cannot be used is no reason to end: no call is made meanwhile.
        """
        while True:
            await asyncio.sleep(_EVERY_SECONDS if self._inspected else _AGAIN_SECONDS)
            try:
                # What was agreed on goes with all the rest when Redis is emptied: it is written down again.
                found = await (agreed if self._inspected else inspect)(self._link, self._keys)
            except Unavailable:
                continue
            fatal = next((finding.says for finding in found if finding.fatal), None)
            if not self._inspected or fatal is not None:
                if found != self._found:
                    for finding in found:
                        log.error("redis_finding", code=finding.code, reason=finding.says, remedy=finding.remedy)
                self._found = found
            self._link.barred = fatal
            self._inspected = fatal is None

    @hookimpl
    async def provide_cache(self) -> Cache:
        return self._cache

    @hookimpl
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        """The chats that are here, newest first by change and id. `total` counts those that only the cache knows: drafts."""
        found, more, drafts = await self._chats.here(user, before, limit)
        return Page(items=[chat.in_db() for chat in found], more=more, total=drafts)

    async def findings(self) -> Sequence[Finding]:
        """For `doctor`: what is wrong with the server and the way to it. Raises `Unavailable`."""
        flaws = await inspect(self._link, self._keys)
        if any(flaw.code == "credentials" for flaw in flaws):
            return [flaw.finding() for flaw in flaws]
        return [*(flaw.finding() for flaw in flaws), *await examine(self._link, self._options.url.get_secret_value())]

    def state(self) -> Mapping[str, Any]:
        """For `/readyz`: whether Redis answers, and how this process fares with it."""
        health = self._link.health
        trouble = self._link.barred or self._link.trouble
        ok = self._inspected and not trouble and not any(finding.fatal for finding in self._found)
        state: dict[str, Any] = {
            "state": "ok" if ok else "unavailable",
            "notices": self._notices.subscribed,
            "calls": sum(each.calls for each in health.values()),
            "round_trips": sum(each.batches for each in health.values()),
        }
        if trouble:
            state["reason"] = trouble
        return state
