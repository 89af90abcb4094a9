"""Word from the other processes: each has a channel of its own, and is told of the persons that are connected to it.

Notices only make it quick. Every two seconds the ends of the logs of all connected persons are looked at, by one call for two
hundred of them; the same call writes down that this process wants to hear of them, for a minute.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import structlog
from redis.exceptions import RedisError

from plugins.cache.memory_watch import Watchers
from plugins.cache.redis_changes import notice_of
from plugins.cache.redis_layout import Keys
from plugins.cache.redis_link import Link
from plugins.cache.redis_records import unpack
from plugins.cache.redis_subscription import Subscription
from plugins.cache.redis_tails import Tails
from plugins.cache.redis_tasks import end
from sidecar import Cursor, Unavailable, UserHash

LOOK_SECONDS = 1.9
"""Below the two seconds of semantics §6."""
_PING_SECONDS = 0.5
_SILENT_SECONDS = 1.5
"""A subscription that answers no ping for so long is dead: noticed within two seconds (lesson L46)."""
_PERSONS = 200
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0

log = structlog.get_logger("plugins.cache.redis")


class Notices:
    """Follows persons for this process. Enter it for its tasks; belongs to one event loop."""

    def __init__(self, link: Link, keys: Keys, process: str, settings: Any, tails: Tails, watchers: Watchers) -> None:
        """`settings` gives the packed settings of the scripts."""
        self._link = link
        self._keys = keys
        self._process = process
        self._settings = settings
        self._tails = tails
        self._watchers = watchers
        self._tasks: list[asyncio.Task[None]] = []
        self._new: set[UserHash] = set()
        self._gone: set[UserHash] = set()
        self._soon = asyncio.Event()
        self._subscription: Subscription | None = None
        self.subscriptions = 0
        """How often a subscription was begun."""

    @property
    def subscribed(self) -> bool:
        """Whether notices come."""
        return self._subscription is not None and self._subscription.confirmed

    @property
    def channel(self) -> str:
        return f"{self._keys.prefix}:notice:"

    async def __aenter__(self) -> Notices:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._listen()),
            loop.create_task(self._look()),
            loop.create_task(self._look_at_new()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(*self._tasks)
        with suppress(Unavailable):
            await self._absent(self._tails.followed)

    def follow(self, user: UserHash) -> None:
        """A connection of this person came."""
        if self._tails.follow(user):
            self._gone.discard(user)
            self._new.add(user)
            self._soon.set()

    def unfollow(self, user: UserHash) -> None:
        """The last connection of this person went."""
        if self._tails.unfollow(user):
            self._new.discard(user)
            self._gone.add(user)
            self._soon.set()

    # -- the ends of the logs --------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look_at(self._tails.followed)

    async def _look_at_new(self) -> None:
        while True:
            await self._soon.wait()
            self._soon.clear()
            new, self._new = self._new, set()
            gone, self._gone = self._gone, set()
            await self._look_at(new)
            with suppress(Unavailable):
                await self._absent(gone)
            await asyncio.sleep(0.05)  # who comes meanwhile is looked at together

    async def _look_at(self, users: Iterable[UserHash]) -> None:
        by_shard: dict[int, list[UserHash]] = {}
        for user in users:
            by_shard.setdefault(self._keys.shard_of(user), []).append(user)
        asks = [
            self._ask(shard, persons[at : at + _PERSONS])
            for shard, persons in by_shard.items()
            for at in range(0, len(persons), _PERSONS)
        ]
        for answer in await asyncio.gather(*asks, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, Unavailable):
                log.error("look_failed", error=type(answer).__name__)

    async def _ask(self, shard: int, users: list[UserHash]) -> None:
        keys = tuple(self._keys.key(shard, f"person:{user}") for user in users)
        before = [self._tails.head(user) for user in users]
        heads = unpack(await self._link.run("look", keys, self._settings(shard)))
        for user, head, known in zip(users, heads, before, strict=True):
            if not self._tails.follows(user):
                continue
            # Without a record the cache has lost this person: a head that no log has makes the feed ask.
            cursor = Cursor(head[0].decode(), head[1], head[2].decode()) if head and head[0] else Cursor("", 0, "")
            if self._tails.saw(user, cursor, known):
                self._watchers.grew(user)

    async def _absent(self, users: Iterable[UserHash]) -> None:
        by_shard: dict[int, list[bytes]] = {}
        for user in users:
            if not self._tails.follows(user):
                shard = self._keys.shard_of(user)
                by_shard.setdefault(shard, []).append(self._keys.key(shard, f"person:{user}"))
        await self._link.run_all(
            ("absent", tuple(keys[at : at + _PERSONS]), self._process.encode())
            for keys in by_shard.values()
            for at in range(0, len(keys), _PERSONS)
        )

    # -- notices -----------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            lived = False
            try:
                self._subscription = subscription = await self._link.subscription(self._hear)
                try:
                    await self._stay(subscription)
                finally:
                    lived, self._subscription = subscription.confirmed, None
                    subscription.close()
            except (Unavailable, RedisError, OSError, TimeoutError) as error:
                if lived:  # one that never came about is the outage that everything else tells of
                    log.warning("notices_interrupted", error=type(error).__name__)
            pause = _FIRST_PAUSE if lived else min(_LONGEST_PAUSE, 2 * pause)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            # What was told meanwhile is lost: the look finds it, now and not only when its time has come.
            await self._look_at(self._tails.followed)

    async def _stay(self, subscription: Subscription) -> None:
        """Raises when the subscription is dead, as it tells or shows by its silence."""
        loop = asyncio.get_running_loop()
        subscription.ask("SUBSCRIBE", self.channel + self._process)
        self.subscriptions += 1
        while True:
            if not self._link.may_listen(subscription):
                raise ConnectionError("this node has left the cluster")
            subscription.ask("PING")
            await subscription.ended(_PING_SECONDS)
            if loop.time() - subscription.heard > _SILENT_SECONDS:
                raise TimeoutError

    def _hear(self, data: bytes) -> None:
        self._told(data)  # looked up each time: tests that lose notices put something else in its place

    def _told(self, data: bytes) -> None:
        try:
            user, step = notice_of(data)
        except Exception as error:  # noqa: BLE001  # a notice of a newer process, or nobody's: the log is the truth
            log.warning("notice_not_understood", error=type(error).__name__)
            return
        person = UserHash(user)
        if self._tails.follows(person):
            self._tails.add(person, step)
            self._watchers.grew(person)
