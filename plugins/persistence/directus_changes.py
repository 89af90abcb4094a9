"""Changes that somebody else made in Directus: heard over its WebSocket, read after a gap, or told by a signed notice."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

from plugins.directus.subscriptions import Heard, Wanted, follow
from plugins.persistence.directus_link import Link
from plugins.persistence.directus_rows import Row, chat_key, chat_of_key, message_of_key, read_time, written
from sidecar import ChatId, Elsewhere, Unavailable, UserHash

_OVERLAP = timedelta(seconds=10)
"""Read again before the time since which changes may be unheard: clocks differ, and transactions end late."""
_FIRST_LOOK = timedelta(hours=1)
"""How far back is looked at the start: longer than a clean copy lives in the cache."""
_PERHAPS_DEAD = timedelta(seconds=90)
"""For so long a connection may have been dead without anybody noticing."""
_PAGE = 200
_AGAIN_SECONDS = 1.0
_QUEUED = 10_000
_ECHO_SECONDS = 60.0

log = logging.getLogger("sidecar.persistence.directus")


class Changes:
    """What is reported, and what is known of it. Own echoes are told by `changed_by`, which Directus itself writes."""

    def __init__(self, link: Link, how: Literal["websocket", "look", "notices"]) -> None:
        """`how`: over Directus' WebSocket; or they are looked for every second; or only notices tell of them."""
        self._link = link
        self._how = how
        self._noted: asyncio.Queue[Elsewhere] = asyncio.Queue(_QUEUED)
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
        if found is not None and not self._noted.full():
            self._noted.put_nowait(Elsewhere(*found))

    async def follow(self) -> AsyncIterator[Elsewhere]:
        """Runs for good. What is unheard while the connection is away is read once it is back; deletions leave nothing to read."""
        queue: asyncio.Queue[Elsewhere] = asyncio.Queue(_QUEUED)
        tasks = [asyncio.create_task(self._pass_on(queue)), asyncio.create_task(self._follow(queue))]
        try:
            while True:
                change = await queue.get()
                self.heard += 1
                yield change
        finally:
            self.listening = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(self, queue: asyncio.Queue[Elsewhere]) -> None:
        while True:
            await queue.put(await self._noted.get())

    async def _follow(self, queue: asyncio.Queue[Elsewhere]) -> None:
        await self._link.ready()
        self._unheard_since = datetime.now(UTC) - _FIRST_LOOK
        trouble: str | None = None
        while True:
            try:
                if self._how == "websocket" and self._link.websockets:
                    await self._listen_once(queue)
                elif self._how != "notices":
                    await self._read_unheard(queue)
                    trouble = None
            except Unavailable as error:
                if error.reason != trouble:
                    trouble = error.reason
                    log.warning("changes made in Directus are not heard: %s", trouble)
            except Exception as error:
                log.exception("changes made in Directus are not heard", exc_info=error)
            self.listening = False
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _listen_once(self, queue: asyncio.Queue[Elsewhere]) -> None:
        names = self._link.names
        fields = ("id", "changed_by")
        wanted = [
            Wanted(names.chats, "update", fields),
            Wanted(names.chats, "delete"),
            Wanted(names.messages, "update", fields),
            Wanted(names.messages, "delete"),
        ]
        try:
            async for heard in follow(self._link.client, wanted):
                if heard is None:
                    self.listening = True
                    await self._read_unheard(queue)
                    continue
                for change in self._of(heard):
                    await queue.put(change)
        finally:
            if self.listening:
                self._unheard_since = datetime.now(UTC) - _PERHAPS_DEAD

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
        """What others have changed since changes were last heard of, by pages in the order of (changed_at, id)."""
        begun = datetime.now(UTC)
        since = (self._unheard_since or begun) - _OVERLAP
        names = self._link.names
        for name in (names.chats, names.messages):
            keys = await self._changed_since(name, since)
            for change in self.of_keys(name, keys, deleted=False):
                await queue.put(change)
        self._unheard_since = begun

    async def _changed_since(self, name: str, since: datetime) -> list[str]:
        foreign = {"_or": [{"changed_by": {"_neq": self._link.user}}, {"changed_by": {"_null": True}}]}
        keys: dict[str, None] = {}
        at, offset, most = written(since), 0, min(_PAGE, self._link.most_read)
        while True:
            page = await self._link.search(
                name,
                filter={"_and": [{"changed_at": {"_gte": at}}, foreign]},
                fields=["id", "changed_at"],
                sort=["changed_at", "id"],
                limit=most,
                offset=offset,
            )
            keys |= dict.fromkeys(str(row.get("id")) for row in page)
            if len(page) < most:
                return list(keys)
            last = written(read_time(page[-1].get("changed_at")))
            offset = (
                offset + most
                if last == at
                else sum(row.get("changed_at") == page[-1].get("changed_at") for row in page)
            )
            at = last
