"""The feed: what happens in a person's log reaches that person's connections, in its order (semantics §6).

Notices only wake a feed; the log is the truth. One pump per person runs while there is something to tell.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import structlog

from sidecar.answers import encode
from sidecar.chats import Found, forget_key
from sidecar.connections import Connection, Registry
from sidecar.cursors import Cursor, Events
from sidecar.errors import SidecarError, Unavailable
from sidecar.events import event_frames
from sidecar.ids import ChatId, ConnectionId, UserHash
from sidecar.parts import Caller, Parts
from sidecar.slots.cache import Fresh

SIGN_IN_AGAIN = 4401
"""A client answers it with a fresh token, once: the device may come back, and has to show who it is."""
ENDINGS: Mapping[str, str] = MappingProxyType(
    {
        "erased": "this person was erased",
        "disconnected": "an operator closed this connection; sign in again",
    }
)
"""Notices that end the person's connections, and what these are told."""
_AT_ONCE = 200
_FOR_THE_OUTBOX = frozenset({"message", "deleted", "notice"})
_LOOK_SECONDS = 2.0
"""How often the end and epoch of every open person's log are looked at, notice or not."""

log = structlog.get_logger("sidecar.feed")


def spawn(coroutine: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """A task that is kept until it is done; it starts at once where the interpreter can do that."""
    if sys.version_info >= (3, 12):
        task = asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)
        if task.done():
            return
    else:
        task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class Feed:
    """The events of one person on this process."""

    __slots__ = ("_again", "_on_entry", "_parts", "_pumping", "_registry", "_user", "head")

    def __init__(
        self, parts: Parts, user: UserHash, head: Cursor, registry: Registry, on_entry: Callable[[UserHash], None]
    ) -> None:
        self._parts = parts
        self._user = user
        self.head = head
        self._registry = registry
        self._on_entry = on_entry
        self._pumping = False
        self._again = False

    def poke(self, tasks: set[asyncio.Task[None]]) -> None:
        """Something may have happened."""
        if self._pumping:
            self._again = True
        elif self._parts.cache.chats.grown(self._user, self.head):
            self._pumping = True
            spawn(self._pump(), tasks)

    def tell(self, cursor: Cursor, author: Caller, type_: str, event: dict[str, Any]) -> bool:
        """Passes on the entry at `cursor`, whose event its author has at hand, so that nothing need be read or opened.

        False if it is not the very next one, or a pump is at work: then the log is to be read.
        """
        head = self.head
        if self._pumping or cursor.offset != head.offset + 1 or cursor.epoch != head.epoch:
            return False
        connections = self._registry.of(self._user)
        frame = None
        if len(connections) > 1:
            event["cursor"] = str(cursor)
            event["deviceId"] = author.device
            frame = encode(type_, event)
        self._pass(cursor, frame, author.connection, connections)
        return True

    async def pump(self) -> None:
        """Passes on what has happened, in the caller's own time, unless that is being done already."""
        if self._pumping:
            self._again = True
        else:
            self._pumping = True
            await self._pump()

    async def _pump(self) -> None:
        trouble = 0
        try:
            while True:
                self._again = False
                try:
                    more = await self._step()
                    trouble = 0
                except Unavailable as error:
                    trouble += 1
                    if trouble > 5:
                        # Cache, store or keys are away: the next look goes on from the same place.
                        log.warning("feed_waits", part=error.part)
                        return
                    await asyncio.sleep(0.1 * 2**trouble)
                    continue
                if not more and not self._again:
                    return
        except Exception as error:
            # What stands there cannot be told. Everybody compares what they hold, and the feed goes on behind it.
            log.exception("feed_failed", exc_info=error)
            await self._skip()
        finally:
            self._pumping = False

    async def _skip(self) -> None:
        try:
            self.head = (await self._parts.cache.chats.events(self._user, None, 0)).head
        except SidecarError:
            return  # the next look fails in the same way, and comes here again
        self._tell("gap", self._registry.of(self._user))

    async def _step(self) -> bool:
        """Passes on the next stretch of the log; False at its end, as far as that is known."""
        chats = self._parts.cache.chats
        events: Events | Fresh
        records: Mapping[ChatId, Found]
        fresh = chats.fresh(self._user, self.head, _AT_ONCE)
        if fresh is not None:
            events, records = fresh, fresh.records
        else:
            records = {}
            events = await chats.events(self._user, self.head, _AT_ONCE)
            if events.lost is not None:
                self.head = events.head
                return self._begin_anew(events.lost)
        if not events.items:
            return False
        epoch = events.head.epoch
        frames = await event_frames(self._parts, self._user, epoch, events.items, records)
        connections = self._registry.of(self._user)
        for item, frame in zip(events.items, frames, strict=True):
            if item.kind in _FOR_THE_OUTBOX:
                self._on_entry(self._user)
            if item.kind == "deleted" and item.chat_id is not None:
                forget_key(self._parts, self._user, item.chat_id)
            self._pass(Cursor(epoch, item.offset, item.tag), frame, item.connection, connections)
            ending = ENDINGS.get(item.ref or "") if item.kind == "notice" else None
            if ending is not None:
                for connection in connections:
                    connection.close(SIGN_IN_AGAIN, ending)
        # Behind what was at hand there may be a gap: then the log is asked at once, and not with the next look.
        return len(events.items) == _AT_ONCE or (fresh is not None and chats.grown(self._user, self.head))

    def _pass(
        self, cursor: Cursor, frame: bytes | None, author: ConnectionId | None, connections: Sequence[Connection]
    ) -> None:
        """One entry, to all but the connection that made it: that one has its answer."""
        sent = 0
        for connection in connections:
            if connection.id == author:
                connection.pass_by(cursor, None)
            else:
                connection.pass_by(cursor, frame)
                sent += frame is not None
        self.head = cursor
        if sent:
            self._parts.metrics.events.labels().inc(sent)

    def _begin_anew(self, reason: str) -> bool:
        """The log is another one, from here on. True: some of it is still to be told, to those who are being synced to it.

        They took their position in it before this feed knew of it, and what they read may be as old as that.
        """
        connections = self._registry.of(self._user)
        synced = [each for each in connections if each.paused and each.position.epoch == self.head.epoch]
        self._tell(reason, [each for each in connections if each not in synced])
        for connection in synced:
            connection.release_all()
        earliest = min((each.position for each in synced), key=lambda position: position.offset, default=self.head)
        if earliest.offset >= self.head.offset:
            return False
        self.head = earliest  # the others pass over what lies before their own position
        return True

    def _tell(self, reason: str, connections: Sequence[Connection]) -> None:
        """The log cannot be followed from here: these compare what they hold."""
        self._parts.metrics.resyncs.labels(reason).inc()
        frame = encode("resync_required", {"reason": reason})
        for connection in connections:
            connection.release_all()
            connection.send(frame)
            connection.position = self.head


class Feeds:
    """All feeds of this process. An async context manager: it follows the cache's notices and looks at the logs itself."""

    def __init__(self, parts: Parts, registry: Registry) -> None:
        self._parts = parts
        self._registry = registry
        self._feeds: dict[UserHash, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._followers: list[asyncio.Task[None]] = []
        self.on_entry: Callable[[UserHash], None] = lambda _: None
        """Called when something was appended to the outbox: a message, a deletion."""

    async def __aenter__(self) -> Feeds:
        self._followers = [asyncio.create_task(self._follow()), asyncio.create_task(self._look())]
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._followers, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def join(self, user: UserHash) -> Cursor:
        """The place from which a new connection of this person hears events."""
        feed = self._feeds.get(user)
        if feed is None:
            head = (await self._parts.cache.chats.events(user, None, 0)).head
            feed = self._feeds.get(user)
            if feed is None:
                feed = self._feeds[user] = Feed(self._parts, user, head, self._registry, self.on_entry)
                self._parts.cache.chats.follow(user)
        return feed.head

    def leave(self, user: UserHash) -> None:
        """The person's last connection on this process is gone."""
        if self._feeds.pop(user, None) is not None:
            self._parts.cache.chats.unfollow(user)

    def poke(self, user: UserHash) -> None:
        """This person's log may have grown."""
        feed = self._feeds.get(user)
        if feed is not None:
            feed.poke(self._tasks)

    def tell(self, cursor: Cursor, author: Caller, type_: str, event: dict[str, Any]) -> bool:
        """A change of this connection is at `cursor`, and this is its event. False if the log must be read to tell it: `pump`."""
        feed = self._feeds.get(author.user)
        return feed is not None and feed.tell(cursor, author, type_, event)

    async def pump(self, user: UserHash) -> None:
        """This person's log has grown by a change of one of its connections: whoever made it passes it on."""
        feed = self._feeds.get(user)
        if feed is not None:
            await feed.pump()

    async def _follow(self) -> None:
        while True:
            try:
                async for user in self._parts.cache.chats.watch():
                    self.poke(user)
            except Unavailable as error:
                log.warning("notices_stopped", part=error.part)
            # The log is looked at meanwhile, so nothing is missed but time (lesson L46).
            await asyncio.sleep(1.0)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for number, user in enumerate(list(self._feeds)):
                self.poke(user)
                if number % 100 == 99:
                    await asyncio.sleep(0)
