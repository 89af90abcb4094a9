"""Sync: what a device missed, by its cursor, or everything in phases (semantics §6).

The position is taken before anything is read, so that whatever happens meanwhile comes as an event after `complete`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sidecar.answers import Answer
from sidecar.changes import ChatInCache, DeleteChat, NewEpoch
from sidecar.chats import Found, bury, own_change, peek
from sidecar.cursors import Cursor, Item, read_cursor
from sidecar.errors import KeyGone, Unavailable, WireError
from sidecar.frames.client import HeldChat, SyncRequest
from sidecar.ids import ChatId, UserHash, resolve_chat_id
from sidecar.merge import delivered
from sidecar.pages import Listed, list_chats, messages_before
from sidecar.parts import Caller, Parts
from sidecar.records import Deleted, MessageInCache, rfc3339
from sidecar.responses import chat_response

_PAGE = 200  # chats asked of the plugins at once
_OPEN_MESSAGES = 100  # messages of the chat that was open last
_RECENT_MESSAGES = 50


@dataclass(frozen=True, slots=True)
class SyncFrame:
    """One frame of a sync's answer. `position` is set on the first: from there on events follow after `complete`."""

    answer: Answer
    position: Cursor | None = None


async def answer_sync(parts: Parts, caller: Caller, payload: SyncRequest) -> AsyncIterator[SyncFrame]:
    """The frames of the answer: one run of `sync_delta`, or of `initial_sync_data` in phases.

    Raises `WireError` (`unavailable`) after the frames that could be sent; such a run has no `complete`.
    """
    user = caller.user
    held: dict[ChatId, HeldChat] = {}
    for chat in payload.chats:
        held.setdefault(resolve_chat_id(user, chat.id), chat)
    last_open = resolve_chat_id(user, payload.last_open_chat_id) if payload.last_open_chat_id is not None else None
    cursor = read_cursor(payload.cursor) if payload.cursor is not None else None
    reason: str | None = None
    epoch_before = cursor.epoch if cursor is not None else None
    if payload.cursor is not None:
        events = await parts.cache.chats.events(user, cursor, parts.settings.cache.events_kept) if cursor else None
        if events is not None and events.lost is None:
            found = await peek(parts, user, list(held))
            missing, deleted = await _judge(parts, user, held, found)
            if not missing:
                parts.metrics.syncs.labels("delta").inc()
                async for frame in _delta(parts, user, events.items, events.head, held, found, deleted):
                    yield frame
                return
            # The log covers the cursor and yet something is gone: everybody must compare what they hold.
            epoch = NewEpoch(events.head.epoch)
            await parts.cache.chats.commit(own_change(parts, user, ChatId(""), epoch))
            reason = "epoch_changed"
        else:
            reason = events.lost if events is not None else "cursor_expired"
    position = (await parts.cache.chats.events(user, None, 0)).head
    whole = payload.cursor is not None and position.epoch != epoch_before
    parts.metrics.syncs.labels("full").inc()
    full = _Full(parts, user, position, held, last_open, whole, reason)
    async for frame in full.frames():
        yield frame


async def _judge(
    parts: Parts, user: UserHash, held: Mapping[ChatId, HeldChat], found: Mapping[ChatId, Found]
) -> tuple[list[ChatId], list[Deleted]]:
    """What the client named and the server has less of or nothing, and what was deleted."""
    missing: list[ChatId] = []
    deleted: list[Deleted] = []
    unknown = [chat_id for chat_id in held if chat_id not in found]
    marks = await parts.cipher.destroyed(user, unknown) if unknown else {}
    for chat_id, named in held.items():
        chat = found.get(chat_id)
        if chat_id in marks:
            # The key's mark outlives every loss of the cache: what it says is written down again.
            outcome = await parts.cache.chats.commit(own_change(parts, user, chat_id, DeleteChat()))
            deleted.append(getattr(outcome, "deleted", None) or Deleted(user, chat_id, marks[chat_id]))
        elif isinstance(chat, Deleted):
            deleted.append(chat)
        elif chat is None:
            if named.version or named.title_version or named.messages_version:
                missing.append(chat_id)
        elif (
            named.version > chat.version
            or named.title_version > chat.title_version
            or named.messages_version > chat.messages_version
        ):
            missing.append(chat_id)
    return missing, deleted


def _draft_differs(named: HeldChat | None, chat: ChatInCache) -> bool:
    return named is None or named.version != chat.version or (named.op is not None and named.op != chat.draft_op)


def _title_differs(named: HeldChat | None, chat: ChatInCache) -> bool:
    return (
        named is None
        or named.title_version != chat.title_version
        or (named.title_op is not None and named.title_op != chat.title_op)
    )


def _messages_differ(named: HeldChat | None, chat: ChatInCache) -> bool:
    return named is None or named.messages_version != chat.messages_version


def _deleted(deleted: Sequence[Deleted]) -> list[dict[str, str]]:
    return [{"id": gone.chat_id, "deletedAt": rfc3339(gone.at)} for gone in deleted]


# -- by cursor ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Changed:
    draft: bool = False
    title: bool = False
    messages: bool = False
    message_ids: dict[str, None] | None = None
    """The messages that changed; None with `messages`: the newest, whichever they are."""


async def _delta(
    parts: Parts,
    user: UserHash,
    items: Sequence[Item],
    head: Cursor,
    held: Mapping[ChatId, HeldChat],
    found: dict[ChatId, Found],
    deleted: list[Deleted],
) -> AsyncIterator[SyncFrame]:
    changed = _coalesced(items)
    unread = [chat_id for chat_id in changed if chat_id not in found]
    found.update(await peek(parts, user, unread))
    for chat_id, named in held.items():
        chat = found.get(chat_id)
        if isinstance(chat, ChatInCache):
            change = changed.setdefault(chat_id, _Changed())
            change.draft |= _draft_differs(named, chat)
            change.title |= _title_differs(named, chat)
            if not change.messages and _messages_differ(named, chat):
                change.messages = True
    told = {gone.chat_id for gone in deleted}
    deleted = deleted + [
        gone for chat_id in changed if isinstance(gone := found.get(chat_id), Deleted) and chat_id not in told
    ]
    room = parts.settings.sync_frame - _room_of(deleted, ())
    frame: list[orjson.Fragment] = []
    size = 0
    for chat_id, change in changed.items():
        chat = found.get(chat_id)
        if not isinstance(chat, ChatInCache) or not (change.draft or change.title or change.messages):
            continue
        response = await _opened(parts, chat, change, room - 4096)
        if response is None:
            continue
        body = orjson.dumps(response)
        if frame and size + len(body) > room:
            yield SyncFrame(_delta_frame(frame, [], head, complete=False), head)
            frame, size = [], 0
        frame.append(orjson.Fragment(body))
        size += len(body) + 1
    yield SyncFrame(_delta_frame(frame, deleted, head, complete=True), head)


def _coalesced(items: Sequence[Item]) -> dict[ChatId, _Changed]:
    changed: dict[ChatId, _Changed] = {}
    for item in items:
        if item.chat_id is None:
            continue
        change = changed.setdefault(item.chat_id, _Changed())
        match item.kind:
            case "draft":
                change.draft = True
            case "title":
                change.title = True
            case "message" | "message_update":
                if not change.messages:
                    change.messages, change.message_ids = True, {}
                if change.message_ids is not None and item.ref is not None:
                    change.message_ids[item.ref] = None
            case "added" | "restored":
                change.draft = change.title = True
            case _:
                pass
    return changed


async def _opened(parts: Parts, chat: ChatInCache, change: _Changed, budget: int) -> dict[str, Any] | None:
    messages: list[MessageInCache] | None = None
    more = False
    if change.messages and change.message_ids is None:
        messages, more = await messages_before(parts, chat, None, _RECENT_MESSAGES)
    elif change.messages and change.message_ids is not None:
        kept = {message.id: message for message in chat.messages}
        others = [message_id for message_id in change.message_ids if message_id not in kept]
        if others:
            stored = await parts.store.find(chat.user, chat.id, others)  # type: ignore[arg-type]
            kept.update({message_id: delivered(message) for message_id, message in stored.items()})
        messages = sorted(
            (kept[message_id] for message_id in change.message_ids if message_id in kept),  # type: ignore[index]
            key=lambda message: message.sequence,
        )
        more = chat.older
    try:
        return await chat_response(
            parts, chat, draft=change.draft, title=change.title, messages=messages, more=more, budget=budget
        )
    except KeyGone:
        await bury(parts, chat.user, chat.id, chat.key)  # the deletion follows as an event
        return None


def _delta_frame(
    chats: Sequence[orjson.Fragment], deleted: Sequence[Deleted], head: Cursor, *, complete: bool
) -> Answer:
    payload = {
        "chats": list(chats),
        "missing": [],
        "deleted": _deleted(deleted),
        "cursor": str(head),
        "complete": complete,
    }
    return Answer("sync_delta", payload)


def _room_of(deleted: Sequence[Deleted], missing: Sequence[ChatId]) -> int:
    return 2048 + 140 * len(deleted) + 80 * len(missing)


# -- everything --------------------------------------------------------------------------------------------------------


class _Full:
    """A full sync, phase by phase, most wanted first."""

    def __init__(
        self,
        parts: Parts,
        user: UserHash,
        position: Cursor,
        held: Mapping[ChatId, HeldChat],
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
        self._total = 0
        self._failed: tuple[str, ...] = ()

    async def frames(self) -> AsyncIterator[SyncFrame]:
        phase = "active"
        try:
            listed, failure = await self._first_page()
            async for frame in self._active():
                yield frame
            phase = "recent"
            if listed is None:
                raise failure or AssertionError("a page or the reason why there is none")
            found = await peek(self._parts, self._user, listed.ids)
            recent = self._wanted(listed.ids, found)
            async for frame in self._phase("recent", recent):
                yield frame
            phase = "recent_content"
            async for frame in self._contents(recent):
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
            listed = await list_chats(self._parts, self._user, None, self._parts.settings.sync_recent)
        except Unavailable as error:
            return None, error
        self._total, self._failed = listed.total, listed.failed
        return listed, None

    async def _active(self) -> AsyncIterator[SyncFrame]:
        chats: list[bytes] = []
        if self._last_open is not None:
            found = (await peek(self._parts, self._user, [self._last_open])).get(self._last_open)
            if isinstance(found, ChatInCache):
                named = self._held.get(found.id)
                self._sent.add(found.id)
                if self._whole or self._differs(named, found):
                    messages = self._whole or _messages_differ(named, found)
                    body = await self._body(found, _OPEN_MESSAGES if messages else 0)
                    chats = [body] if body is not None else []
        yield self._frame("active", chats)

    async def _contents(self, recent: Sequence[ChatInCache]) -> AsyncIterator[SyncFrame]:
        bodies: list[bytes] = []
        size = 0
        room = self._parts.settings.sync_frame - 2048
        for chat in recent:
            if not chat.persisted or not (self._whole or _messages_differ(self._held.get(chat.id), chat)):
                continue
            body = await self._body(chat, _RECENT_MESSAGES, texts=False)
            if body is None:
                continue
            if bodies and size + len(body) > room:
                yield self._frame("recent_content", bodies)
                bodies, size = [], 0
            bodies.append(body)
            size += len(body) + 1
        if bodies:
            yield self._frame("recent_content", bodies)

    async def _rest(self, more: bool, last: Any, seen: int) -> AsyncIterator[SyncFrame]:
        while more and last is not None and seen < self._parts.settings.sync_total:
            limit = min(_PAGE, self._parts.settings.sync_total - seen)
            listed = await list_chats(self._parts, self._user, last, limit)
            found = await peek(self._parts, self._user, listed.ids)
            async for frame in self._phase("rest", self._wanted(listed.ids, found)):
                yield frame
            more, last, seen = listed.more and bool(listed.ids), listed.last, seen + len(listed.ids)
        # Judged last, so that the first frames leave early; a client applies nothing before `complete` but what it shows.
        found = await peek(self._parts, self._user, list(self._held))
        missing, deleted = await _judge(self._parts, self._user, self._held, found)
        unsent = [
            chat
            for chat_id in self._held
            if isinstance(chat := found.get(chat_id), ChatInCache) and chat_id not in self._sent
        ]
        self._sent.update(chat.id for chat in unsent)
        room = _room_of(deleted, missing)
        differing = [chat for chat in unsent if self._differs(self._held.get(chat.id), chat)]
        async for frame in self._phase("rest", differing):
            yield frame
        if room > self._parts.settings.sync_frame:
            raise AssertionError("a thousand named chats fit into the smallest frame that the configuration allows")
        yield self._frame("rest", [], missing=missing, deleted=deleted, complete=True)

    def _wanted(self, ids: Sequence[ChatId], found: Mapping[ChatId, Found]) -> list[ChatInCache]:
        """Of these chats those that were not sent yet and differ from what the client named."""
        wanted: list[ChatInCache] = []
        for chat_id in ids:
            chat = found.get(chat_id)
            if chat_id in self._sent or not isinstance(chat, ChatInCache):
                continue
            self._sent.add(chat_id)
            if self._whole or self._differs(self._held.get(chat_id), chat):
                wanted.append(chat)
        return wanted

    @staticmethod
    def _differs(named: HeldChat | None, chat: ChatInCache) -> bool:
        return _draft_differs(named, chat) or _title_differs(named, chat) or _messages_differ(named, chat)

    async def _phase(self, phase: str, chats: Sequence[ChatInCache]) -> AsyncIterator[SyncFrame]:
        """The chats with their texts and without messages, in frames that keep within the limit."""
        bodies: list[bytes] = []
        size = 0
        room = self._parts.settings.sync_frame - 2048
        for chat in chats:
            body = await self._body(chat, 0)
            if body is None:
                continue
            if bodies and size + len(body) > room:
                yield self._frame(phase, bodies)
                bodies, size = [], 0
            bodies.append(body)
            size += len(body) + 1
        if bodies:
            yield self._frame(phase, bodies)

    async def _body(self, chat: ChatInCache, messages: int, *, texts: bool = True) -> bytes | None:
        """One chat, encoded; None where its key turns out to be destroyed (its deletion follows as an event)."""
        newest: list[MessageInCache] | None = None
        more = False
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
                budget=self._parts.settings.sync_frame - 8192,
            )
        except KeyGone:
            await bury(self._parts, self._user, chat.id, chat.key)
            return None
        await asyncio.sleep(0)  # a sync of many chats lets the others have their turn
        return orjson.dumps(response)

    def _frame(
        self,
        phase: str,
        chats: Sequence[bytes],
        *,
        missing: Sequence[ChatId] = (),
        deleted: Sequence[Deleted] = (),
        complete: bool = False,
        failed: dict[str, Any] | None = None,
    ) -> SyncFrame:
        payload: dict[str, Any] = {
            "phase": phase,
            "chats": [orjson.Fragment(chat) for chat in chats],
            "lastOpenChatId": self._last_open,
            "missing": list(missing),
            "deleted": _deleted(deleted),
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
