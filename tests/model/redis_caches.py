"""`cache.redis` for the model: the real scripts on a real server, at the model's own time, and no sockets on its loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Self, cast

from redis import Redis as Client
from redis.exceptions import NoScriptError

from plugins.cache.memory_watch import Watchers
from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_layout import Keys, script
from plugins.cache.redis_leases import RedisLeases
from plugins.cache.redis_link import Link
from plugins.cache.redis_notices import Notices
from plugins.cache.redis_outbox import RedisOutbox
from plugins.cache.redis_records import pack, unpack
from plugins.cache.redis_settings import ScriptSettings
from plugins.cache.redis_sweep import sweep
from plugins.cache.redis_tails import Tails
from plugins.cache.redis_tasks import end
from sidecar import Cache, ChatId, ChatInDB, Page, Unavailable, UserHash
from tests.model.clock import Wall

_SHARDS = 2
_WITHOUT_SETTINGS = frozenset({"absent", "agreed"})
"""Scripts that ask for no time."""


class Clock:
    """What is to be added to the server's time so that scripts run at the model's. It never goes back."""

    def __init__(self) -> None:
        self._latest = 0

    def skew(self, wall: Wall) -> int:
        """Milliseconds, for a script that is run now."""
        self._latest = max(self._latest, round(wall.seconds() * 1000))
        return self._latest - time.time_ns() // 1_000_000


class BlockingLink:
    """Runs scripts as `Link` does; each is done in one piece by the loop's executor, which says when."""

    def __init__(self, client: Client, wall: Wall, clock: Clock) -> None:
        self._client = client
        self._wall = wall
        self._clock = clock
        self.closed = False

    async def run(
        self, name: str, keys: tuple[bytes, ...], *arguments: bytes | int, lane: str = "rest", anyway: bool = False
    ) -> Any:
        answer = await asyncio.get_running_loop().run_in_executor(None, self._run, name, keys, arguments)
        if self.closed:  # whoever asked is gone
            raise Unavailable("cache", "it is closed")
        return answer

    async def run_all(self, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        return list(await asyncio.gather(*(self.run(*each) for each in calls)))

    def _run(self, name: str, keys: tuple[bytes, ...], arguments: tuple[bytes | int, ...]) -> Any:
        if self.closed:
            raise Unavailable("cache", "it is closed")
        if name not in _WITHOUT_SETTINGS:
            settings = unpack(cast("bytes", arguments[0]))
            arguments = (pack([self._clock.skew(self._wall), *settings[1:]]), *arguments[1:])
        made = script(name)
        client: Any = self._client
        try:
            answer = client.evalsha(made.sha.decode(), len(keys), *keys, *arguments)
        except NoScriptError:
            answer = client.eval(made.text, len(keys), *keys, *arguments)
        return answer[0] if made.many else answer  # such a script answers each of the calls that came together


class RedisPlugin:
    """The plugin's parts as the plugin puts them together, for one process."""

    def __init__(self, client: Client, wall: Wall, clock: Clock, number: int) -> None:
        self._link = BlockingLink(client, wall, clock)
        link, process = cast("Link", self._link), f"process-{number}"
        self._settings = ScriptSettings(Keys("model", _SHARDS), process)
        tails, watchers = Tails(), Watchers()
        packed = self._settings.packed
        self._notices = Notices(link, self._settings.keys, process, packed, tails, watchers)
        self._chats = RedisChats(link, self._settings, tails, self._notices, watchers)
        outbox = RedisOutbox(link, self._settings, self._chats)
        self._cache = Cache(self._chats, outbox, RedisLeases(link, self._settings))
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        link = cast("Link", self._link)
        # There is one process, which nobody tells anything: all but the subscription.
        work = (self._notices._look(), self._notices._look_at_new())
        self._tasks = [loop.create_task(each) for each in work]
        self._tasks.append(loop.create_task(sweep(link, self._settings, self._chats, self._cache.leases)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.closed = True
        await end(*self._tasks)

    async def provide_cache(self) -> Cache:
        return self._cache

    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        found, more, drafts = await self._chats.here(user, before, limit)
        return Page(items=[chat.in_db() for chat in found], more=more, total=drafts)


class RedisCaches:
    """A server of the tests' own, empty at the start of a run."""

    def __init__(self, url: str) -> None:
        self._client = Client.from_url(url)
        self._clock = Clock()
        self._lives = 0
        self.lose()

    def plugin(self, wall: Wall) -> RedisPlugin:
        self._lives += 1
        return RedisPlugin(self._client, wall, self._clock, self._lives)

    def lose(self) -> None:
        self._client.flushall()

    def close(self) -> None:
        self._client.close()
