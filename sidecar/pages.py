"""Older chats and messages on demand: `messages_request`, `chats_request` (semantics §6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sidecar.answers import Answer
from sidecar.changes import ChatInCache
from sidecar.chats import bury, load, peek
from sidecar.errors import KeyGone, WireError
from sidecar.frames.client import ChatsRequest, MessagesRequest
from sidecar.ids import ChatId, MessageId, UserHash, resolve_chat_id
from sidecar.merge import delivered
from sidecar.parts import Caller, Parts
from sidecar.records import ChatInDB, MessageInCache
from sidecar.responses import ENVELOPE, chat_response, message_response, size_of


async def messages_page(parts: Parts, caller: Caller, payload: MessagesRequest) -> Answer:
    """`messages_request`: messages older than `before`, oldest first."""
    user = caller.user
    chat_id = resolve_chat_id(user, payload.chat_id)
    found = (await load(parts, user, [chat_id], use=True)).chats.get(chat_id)
    if not isinstance(found, ChatInCache):
        raise WireError("not_found", "no such chat")
    before = MessageId(payload.before) if payload.before is not None else None
    messages, more = await messages_before(parts, found, before, payload.limit)
    budget = parts.settings.sync_frame - ENVELOPE
    bad: list[str] = []
    bodies: list[dict[str, Any]] = []
    for message in reversed(messages):
        budget -= size_of(message)
        if budget < 0 and bodies:
            more = True
            break
        try:
            bodies.append(await message_response(parts, found.key, message, bad))
        except KeyGone:
            await bury(parts, user, chat_id, found.key)
            raise WireError("not_found", "this chat was deleted") from None
    bodies.reverse()
    page = {"chatId": chat_id, "messages": bodies, "hasMore": more}
    return Answer("messages_page", {**page, "undecryptable": bad} if bad else page)


async def messages_before(
    parts: Parts, chat: ChatInCache, before: MessageId | None, limit: int
) -> tuple[list[MessageInCache], bool]:
    """Up to `limit` messages older than `before` (None: the newest), by sequence, and whether there are older ones."""
    kept = list(chat.messages)
    anchor: MessageId | None = None
    if before is not None:
        place = next((place for place, message in enumerate(kept) if message.id == before), None)
        if place is None:
            if not (await parts.store.find(chat.user, chat.id, [before])):
                raise WireError("not_found", "no such message in this chat", details={"path": "payload.before"})
            page = await parts.store.messages(chat.user, chat.id, before, limit)
            return [delivered(message) for message in reversed(page.items)], page.more
        anchor = before if kept[place].status == "delivered" else None
        kept = kept[:place]
    if len(kept) >= limit or not chat.older:
        return kept[-limit:], len(kept) > limit or chat.older
    # The rest is the store's: older than the oldest message here that the store has as well.
    anchor = next((message.id for message in kept if message.status == "delivered"), anchor)
    page = await parts.store.messages(chat.user, chat.id, anchor, limit)
    here = {message.id for message in kept}
    older = [delivered(message) for message in reversed(page.items) if message.id not in here]
    together = sorted([*older, *kept], key=lambda message: message.sequence)
    return together[-limit:], page.more or len(together) > limit


async def chats_page(parts: Parts, caller: Caller, payload: ChatsRequest) -> Answer:
    """`chats_request`: chats by id, or older than a place in the list. Those that nobody knows are left out."""
    user = caller.user
    more = False
    if payload.ids is not None:
        ids = list(dict.fromkeys(resolve_chat_id(user, wire) for wire in payload.ids))
    else:
        place = None
        if payload.before is not None:
            place = (payload.before.timestamp, resolve_chat_id(user, payload.before.id))
        listed = await list_chats(parts, user, place, payload.limit)
        ids, more = listed.ids, listed.more
    found = await peek(parts, user, ids)
    budget = parts.settings.sync_frame - ENVELOPE
    bodies: list[dict[str, Any]] = []
    for chat_id in ids:
        chat = found.get(chat_id)
        if isinstance(chat, ChatInCache):
            # A title is a JSON string there, whose escapes may take six bytes for one.
            budget -= len(chat.draft or b"") + 6 * len(chat.title or b"") + 1000
            if budget < 0 and bodies:
                more = True
                break
            try:
                bodies.append(await chat_response(parts, chat))
            except KeyGone:
                await bury(parts, user, chat_id, chat.key)  # the deletion follows as an event
    return Answer("chats_page", {"chats": bodies, "hasMore": more})


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a person's chats, newest first, out of what all plugins know."""

    ids: list[ChatId]
    more: bool
    total: int
    failed: tuple[str, ...]
    last: tuple[datetime, ChatId] | None
    """The place from which the next page goes on."""


async def list_chats(parts: Parts, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Listed:
    """The chats after a place. The count is the store's, and the cache's of those that no store has (lesson L43)."""
    answer = await parts.plugins.sync(user, before, limit)
    newest: dict[ChatId, ChatInDB] = {}
    floor: tuple[datetime, ChatId] | None = None
    total = 0
    more = False
    for name, page in answer.pages.items():
        for chat in page.items:
            if chat.id not in newest or chat.updated_at > newest[chat.id].updated_at:
                newest[chat.id] = chat
        if name in ("persistence", "cache"):
            total += page.total
        if page.more and page.items:
            more = True
            # Beyond this plugin's last chat there may be others of its own: nothing later may be told before them.
            last = min((chat.updated_at, chat.id) for chat in page.items)
            floor = last if floor is None else max(floor, last)
    ordered = sorted(newest.values(), key=lambda chat: (chat.updated_at, chat.id), reverse=True)
    if floor is not None:
        ordered = [chat for chat in ordered if (chat.updated_at, chat.id) >= floor]
    if len(ordered) > limit:
        ordered, more = ordered[:limit], True
    place = (ordered[-1].updated_at, ordered[-1].id) if ordered else None
    return Listed([chat.id for chat in ordered], more, total, answer.failed, place)
