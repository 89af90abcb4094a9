"""A full sync in phases, most wanted first (semantics §6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from sidecar.answers import Answer
from sidecar.changes import ChatInCache
from sidecar.chats import Found, bury, peek
from sidecar.cursors import Cursor
from sidecar.errors import KeyGone, Unavailable, WireError
from sidecar.ids import ChatId, UserHash
from sidecar.pages import Listed, list_chats, messages_before
from sidecar.parts import Parts
from sidecar.records import MessageInCache
from sidecar.responses import ENVELOPE, chat_response
from sidecar.sync_frames import AROUND, SyncFrame, Told, packed, told
from sidecar.sync_held import Held, differs, judge, messages_differ

_PAGE = 200
"""Chats asked of the plugins at once."""
_AT_ONCE = 50
"""Chats whose keys are asked for together; they leave before the next ones are asked for."""
_OPEN_MESSAGES = 100
"""Messages of the chat that was open last."""
_READ_AT_ONCE = 10
"""Chats whose messages are read together."""
_RECENT_MESSAGES = 50


class Full:
    """The answer to one client. `whole`: what the client named says nothing, its numbers may be of another epoch."""

    def __init__(
        self,
        parts: Parts,
        user: UserHash,
        position: Cursor,
        held: Held,
        *,
        last_open: ChatId | None,
        whole: bool,
        reason: str | None,
    ) -> None:
        self._parts = parts
        self._user = user
        self._position = position
        self._held = held
        self._last_open = last_open
        self._whole = whole
        self._reason = reason
        self._sent: set[ChatId] = set()
        self._seen: dict[ChatId, Found] = {}
        self._total = 0
        self._failed: dict[str, None] = {}

    async def frames(self) -> AsyncIterator[SyncFrame]:
        """One run of `initial_sync_data`. Raises `WireError` (`unavailable`) after what could be sent."""
        phase = "active"
        try:
            listed, failure = await self._first_page()
            async for frame in self._active():
                yield frame
            phase = "recent"
            if listed is None:
                raise failure or AssertionError("a page or the reason why there is none")
            found = await self._peek(listed.ids)
            recent = self._wanted(listed.ids, found)
            async for frame in self._phase("recent", self._texts(recent)):
                yield frame
            phase = "recent_content"
            async for frame in self._phase("recent_content", self._contents(recent)):
                yield frame
            phase = "rest"
            async for frame in self._rest(listed.more, listed.last, len(listed.ids)):
                yield frame
        except Unavailable as error:
            # Said, and the run ends without `complete`: its cursor does not count, the client asks again.
            failed = {"code": "unavailable", "message": "this phase could not be read; sync again", "retryable": True}
            yield self._frame(phase, [], failed={**failed, "details": {"part": error.part}})
            raise WireError(
                "unavailable",
                "the sync could not be finished; ask again",
                retryable=True,
                retry_after_ms=round((error.retry_after or 1.0) * 1000),
                details={"part": error.part},
            ) from None

    async def _first_page(self) -> tuple[Listed | None, Unavailable | None]:
        """Asked first for the count; where it fails the chat that is open on the screen still comes first."""
        try:
            listed = await self._list(None, self._parts.settings.sync_recent)
        except Unavailable as error:
            return None, error
        self._total = listed.total
        return listed, None

    async def _list(self, before: tuple[datetime, ChatId] | None, limit: int) -> Listed:
        listed = await list_chats(self._parts, self._user, before, limit)
        self._failed.update(dict.fromkeys(listed.failed))
        return listed

    async def _active(self) -> AsyncIterator[SyncFrame]:
        chats: list[orjson.Fragment] = []
        if self._last_open is not None:
            found = (await self._peek([self._last_open])).get(self._last_open)
            if isinstance(found, ChatInCache):
                named = self._held.get(found.id)
                self._sent.add(found.id)
                if self._whole or differs(named, found):
                    messages = self._whole or messages_differ(named, found)
                    body = await self._body(found, _OPEN_MESSAGES if messages else 0)
                    chats = [orjson.Fragment(body)] if body is not None else []
        yield self._frame("active", chats)

    async def _rest(self, more: bool, last: tuple[datetime, ChatId] | None, seen: int) -> AsyncIterator[SyncFrame]:
        while more and last is not None and seen < self._parts.settings.sync_total:
            listed = await self._list(last, min(_PAGE, self._parts.settings.sync_total - seen))
            for start in range(0, len(listed.ids), _AT_ONCE):
                ids = listed.ids[start : start + _AT_ONCE]
                found = await self._peek(ids)
                async for frame in self._phase("rest", self._texts(self._wanted(ids, found))):
                    yield frame
            more, last, seen = listed.more and bool(listed.ids), listed.last, seen + len(listed.ids)
        # Judged last, so that the first frames leave early; a client applies nothing before `complete` but what it shows.
        others = [chat_id for chat_id in self._held if chat_id not in self._seen]
        for start in range(0, len(others), _AT_ONCE):
            ids = others[start : start + _AT_ONCE]
            found = await self._peek(ids)
            async for frame in self._phase("rest", self._texts(self._wanted(ids, found))):
                yield frame
        # What was seen in this run may have changed since: the events behind the run's position tell that.
        missing, deleted = judge(self._held, self._seen)
        *pieces, end = told(missing, deleted)
        for piece in pieces:
            yield self._frame("rest", [], piece)
        yield self._frame("rest", [], end, complete=True)

    async def _peek(self, ids: Sequence[ChatId]) -> Mapping[ChatId, Found]:
        """These chats; of those that the client named the revisions are kept, to be judged at the end."""
        found = await peek(self._parts, self._user, ids)
        for chat_id, chat in found.items():
            if chat_id in self._held:
                self._seen[chat_id] = (
                    chat.having(title=None, draft=None, messages=()) if isinstance(chat, ChatInCache) else chat
                )
        return found

    def _wanted(self, ids: Sequence[ChatId], found: Mapping[ChatId, Found]) -> list[ChatInCache]:
        """Of these chats those that were not sent yet and differ from what the client named."""
        wanted: list[ChatInCache] = []
        for chat_id in ids:
            chat = found.get(chat_id)
            if chat_id in self._sent or not isinstance(chat, ChatInCache):
                continue
            self._sent.add(chat_id)
            if self._whole or differs(self._held.get(chat_id), chat):
                wanted.append(chat)
        return wanted

    async def _phase(self, phase: str, bodies: AsyncIterator[bytes]) -> AsyncIterator[SyncFrame]:
        async for group in packed(bodies, self._parts.settings.sync_frame - ENVELOPE):
            yield self._frame(phase, group)

    async def _texts(self, chats: Sequence[ChatInCache]) -> AsyncIterator[bytes]:
        """The chats with their texts and without messages."""
        for chat in chats:
            body = await self._body(chat, 0)
            if body is not None:
                yield body

    async def _contents(self, chats: Sequence[ChatInCache]) -> AsyncIterator[bytes]:
        """The newest messages of those chats whose messages the client has not got."""
        wanted = [
            chat for chat in chats if chat.persisted and (self._whole or messages_differ(self._held.get(chat.id), chat))
        ]
        for start in range(0, len(wanted), _READ_AT_ONCE):
            group = wanted[start : start + _READ_AT_ONCE]
            # At once, so that a store may read them by one call; a few, since their messages are held meanwhile.
            pages = await asyncio.gather(
                *(messages_before(self._parts, chat, None, _RECENT_MESSAGES) for chat in group)
            )
            for chat, page in zip(group, pages, strict=True):
                body = await self._body(chat, 0, texts=False, page=page)
                if body is not None:
                    yield body

    async def _body(
        self,
        chat: ChatInCache,
        messages: int,
        *,
        texts: bool = True,
        page: tuple[list[MessageInCache], bool] | None = None,
    ) -> bytes | None:
        """One chat, encoded; None where its key turns out to be destroyed (its deletion follows as an event)."""
        newest, more = page if page is not None else (None, False)
        if messages:
            newest, more = await messages_before(self._parts, chat, None, messages)
        try:
            response = await chat_response(
                self._parts,
                chat,
                draft=texts,
                title=texts,
                messages=newest,
                more=more,
                budget=self._parts.settings.sync_frame - AROUND,
            )
        except KeyGone:
            await bury(self._parts, self._user, chat.id, chat.key)
            return None
        await asyncio.sleep(0)  # a sync of many chats lets the others have their turn
        return orjson.dumps(response)

    def _frame(
        self,
        phase: str,
        chats: Sequence[orjson.Fragment],
        piece: Told | None = None,
        *,
        complete: bool = False,
        failed: dict[str, Any] | None = None,
    ) -> SyncFrame:
        piece = piece or Told()
        payload: dict[str, Any] = {
            "phase": phase,
            "chats": list(chats),
            "lastOpenChatId": self._last_open,
            "missing": list(piece.missing),
            "deleted": piece.deleted_entries(),
            "total": self._total,
            "complete": complete,
            "cursor": str(self._position),
        }
        if self._failed and failed is None and phase != "active":
            names = ", ".join(self._failed)
            failed = {
                "code": "unavailable",
                "message": f"these plugins did not answer: {names}; their chats are not in here",
                "retryable": True,
                "details": {"plugins": list(self._failed)},
            }
        if failed is not None:
            payload["failed"] = failed
        if self._reason is not None:
            payload["reason"] = self._reason
        return SyncFrame(Answer("initial_sync_data", payload), self._position)
