"""Changes that somebody else made in Directus: heard over its WebSocket, read after a gap, or told by a signed notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Literal

import structlog

from plugins.directus.client import NotServed
from plugins.directus.graphql_subscriptions import follow_graphql
from plugins.directus.subscriptions import Heard, Wanted, follow
from plugins.persistence.directus_link import Link
from plugins.persistence.directus_looks import Looks
from plugins.persistence.directus_rows import Row, chat_key, chat_of_key, message_of_key
from sidecar import ChatId, Elsewhere, Unavailable, UserHash

_FIRST_LOOK = timedelta(hours=1)
"""How far back is looked at the start: longer than a clean copy lives in the cache."""
_PERHAPS_DEAD = timedelta(seconds=90)
"""For so long a connection may have been dead without anybody noticing."""
_AGAIN_SECONDS = 1.0
_LOOK_SECONDS = 0.5
"""Between two looks for edited chats, where they are not reported."""
_QUEUED = 10_000
_ECHO_SECONDS = 60.0

log = structlog.get_logger("plugins.persistence.directus")


class Changes:
    """What is reported, and what is known of it. Own echoes are told by `changed_by`, which Directus itself writes."""

    def __init__(self, link: Link, how: Literal["websocket", "look", "notices"]) -> None:
        """`how`: over Directus' WebSocket; or they are looked for every second; or only notices tell of them."""
        self._link = link
        self._how = how
        self._looks = Looks(link)
        self._met: asyncio.Queue[Elsewhere] = asyncio.Queue(_QUEUED)
        self._deleting: dict[str, float] = {}
        self._unheard_since: datetime | None = None
        self.listening = False
        """Whether the subscriptions hold."""
        self.heard = 0
        """Changes of others, since the start."""

    def note_deletion(self, keys: Iterable[str], user: UserHash | None = None) -> None:
        """These chats, or everything of this person, are about to be deleted by us: what is reported of it is an echo."""
        now = time.monotonic()
        for each in (*keys, *((user,) if user is not None else ())):
            self._deleting[each] = now
        while self._deleting and (
            len(self._deleting) > _QUEUED or next(iter(self._deleting.values())) < now - _ECHO_SECONDS
        ):
            del self._deleting[next(iter(self._deleting))]

    def _is_echo(self, user: UserHash, chat_id: ChatId) -> bool:
        return user in self._deleting or chat_key(user, chat_id) in self._deleting

    def note_before_write(self, row: Row) -> None:
        """This row is about to be written: if the last to write it was somebody else, nobody could tell any more afterwards."""
        if row.get("changed_at") is None or row.get("changed_by") == self._link.user:
            return
        found = chat_of_key(str(row.get("id")))
        if found is not None and not self._met.full():
            self._met.put_nowait(Elsewhere(*found))

    async def met(self) -> AsyncIterator[Elsewhere]:
        """The chats whose rows others had changed when this process wrote them. Runs for good."""
        while True:
            yield await self._met.get()

    async def follow(self) -> AsyncIterator[Elsewhere]:
        """Runs for good. What is unheard while the connection is away is read once it is back; deletions leave nothing to read."""
        queue: asyncio.Queue[Elsewhere] = asyncio.Queue(_QUEUED)
        following = asyncio.create_task(self._follow(queue))
        try:
            while True:
                change = await queue.get()
                self.heard += 1
                yield change
        finally:
            self.listening = False
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, queue: asyncio.Queue[Elsewhere]) -> None:
        await self._link.ready()
        self._unheard_since = self._looks.now() - _FIRST_LOOK
        trouble: str | None = None
        while True:
            try:
                if self._how == "websocket" and self._link.websockets:
                    await self._listen(queue)
                elif self._how != "notices":
                    await self._read_unheard(queue)
                    trouble = None
            except Unavailable as error:
                if error.reason != trouble:
                    trouble = error.reason
                    log.warning("directus_not_heard", reason=trouble)
            except Exception as error:
                log.exception("changes made in Directus are not heard", exc_info=error)
            self.listening = False
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _listen(self, queue: asyncio.Queue[Elsewhere]) -> None:
        """Until the connection ends. In the way that costs Directus least: it looks up an update of a chat, of which the sidecar itself
        makes most, for whoever listens to it, and with its older WebSocket each row that is created too."""
        names, client = self._link.names, self._link.client
        fields = ("id", "changed_by")
        wanted = [
            Wanted(names.chats, "delete"),
            Wanted(names.messages, "delete"),
            Wanted(names.messages, "update", fields),
        ]
        if self._link.graphql is not None:
            try:
                await self._hear(queue, follow_graphql(client, self._link.graphql, wanted), looking=True)
            except NotServed as error:
                log.info("directus_heard_otherwise", reason=error.reason)
        await self._hear(queue, follow(client, [*wanted, Wanted(names.chats, "update", fields)]))

    async def _hear(
        self, queue: asyncio.Queue[Elsewhere], reports: AsyncGenerator[Heard | None], *, looking: bool = False
    ) -> None:
        """`looking`: edited chats are not reported, and looked for."""
        beside: asyncio.Task[None] | None = None
        try:
            async with aclosing(reports):
                async for heard in reports:
                    if heard is not None:
                        for change in self._of(heard):
                            await queue.put(change)
                        continue
                    self.listening = True
                    await self._read_unheard(queue)
                    if looking:
                        beside = asyncio.create_task(self._look_for_edited_chats(queue))
        finally:
            if beside is not None:
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)
            if self.listening:
                self._unheard_since = self._looks.now() - _PERHAPS_DEAD

    def _of(self, heard: Heard) -> Iterable[Elsewhere]:
        keys = (
            heard.keys
            if heard.action == "delete"
            else [str(row.get("id")) for row in heard.rows if row.get("changed_by") != self._link.user]
        )
        return self.of_keys(heard.collection, keys, deleted=heard.action == "delete")

    def of_keys(self, collection: str, keys: Iterable[str], *, deleted: bool) -> list[Elsewhere]:
        """What became of the rows of these keys; keys that are none of ours are nobody's."""
        changes: list[Elsewhere] = []
        for key in keys:
            if collection == self._link.names.messages:
                message = message_of_key(key)
                if message is not None and not (deleted and self._is_echo(*message[:2])):
                    changes.append(Elsewhere(*message, deleted=deleted))
            elif collection == self._link.names.chats:
                chat = chat_of_key(key)
                if chat is not None and not (deleted and self._is_echo(*chat)):
                    changes.append(Elsewhere(*chat, deleted=deleted))
        return changes

    async def _read_unheard(self, queue: asyncio.Queue[Elsewhere]) -> None:
        """What others have changed since changes were last heard of."""
        begun = self._looks.now()
        names = self._link.names
        for name in (names.chats, names.messages):
            await self._look(queue, name, self._unheard_since or begun)
        self._unheard_since = begun

    async def _look(self, queue: asyncio.Queue[Elsewhere], name: str, since: datetime) -> None:
        for change in self.of_keys(name, await self._looks.since(name, since), deleted=False):
            await queue.put(change)

    async def _look_for_edited_chats(self, queue: asyncio.Queue[Elsewhere]) -> None:
        """Runs for good."""
        since = self._looks.now()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            begun = self._looks.now()
            try:
                await self._look(queue, self._link.names.chats, since)
            except Unavailable:
                continue  # said by whoever listens beside this
            except Exception as error:
                log.exception("changes made in Directus are not looked for", exc_info=error)
                continue
            since = begun
