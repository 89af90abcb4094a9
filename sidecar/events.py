"""Log entries become event frames: each is opened and encoded once, whoever gets it (semantics §6, protocol *Events*)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.answers import encode
from sidecar.changes import ChatInCache
from sidecar.chats import Found, bury, peek
from sidecar.cursors import Cursor, Item
from sidecar.errors import KeyGone, Undecryptable
from sidecar.ids import ChatId, MessageId, UserHash, client_part
from sidecar.merge import delivered
from sidecar.parts import Parts
from sidecar.records import Deleted, MessageInCache, rfc3339
from sidecar.responses import chat_response, durability, fragment, message_response
from sidecar.texts import open_draft, open_title


async def event_frames(
    parts: Parts, user: UserHash, epoch: str, items: Sequence[Item], records: Mapping[ChatId, Found]
) -> list[bytes | None]:
    """One frame for each entry, or None where there is nothing to tell: a later entry tells it, or the chat is gone.

    `records` are the chats as far as they are at hand; when one is missing all are read.

    Raises `Unavailable`.
    """
    cache = parts.cache.chats
    ids = list({item.chat_id for item in items if item.chat_id})
    found: Mapping[ChatId, Found] = records
    if not all(chat_id in records for chat_id in ids):
        found = await cache.read(user, ids)
    if len(found) < len(ids) or any(isinstance(chat, ChatInCache) and chat.epoch != epoch for chat in found.values()):
        found = await peek(parts, user, ids)
    frames: list[bytes | None] = []
    for item in items:
        try:
            event = await _event(parts, item, found.get(item.chat_id) if item.chat_id is not None else None)
        except KeyGone:
            chat = found.get(item.chat_id) if item.chat_id is not None else None
            if isinstance(chat, ChatInCache):
                await bury(parts, user, chat.id, chat.key)  # its deletion follows in the log
            event = None
        if event is None:
            frames.append(None)
            continue
        type_, payload = event
        payload["cursor"] = str(Cursor(epoch, item.offset, item.tag))
        payload["deviceId"] = item.device
        frames.append(encode(type_, payload))
    return frames


async def _event(parts: Parts, item: Item, chat: Found | None) -> tuple[str, dict[str, Any]] | None:
    if isinstance(chat, Deleted):
        if item.kind != "deleted":
            return None
        return "chat_deleted", {"chatId": chat.chat_id, "deletedAt": rfc3339(chat.at)}
    if chat is None:
        return None
    match item.kind:
        case "draft":
            return await _draft(parts, item, chat)
        case "title":
            return await _title(parts, item, chat)
        case "message":
            return await _message(parts, item, chat)
        case "message_update":
            return await _update(parts, item, chat)
        case "message_deleted":
            told = {"chatId": chat.id, "messageId": item.ref, "messagesVersion": item.version}
            return "message_deleted", told
        case "added":
            response = await chat_response(parts, chat)
            return "chat_added", {"chat": response, "tempChatId": client_part(chat.id)}
        case "restored":
            return await _restored(parts, chat)
        case "stored":
            stored = {"chatId": chat.id, "version": chat.stored_version, "titleVersion": chat.stored_title_version}
            return "chat_stored", stored
        case _:
            return None


async def _restored(parts: Parts, chat: ChatInCache) -> tuple[str, dict[str, Any]]:
    response = await chat_response(parts, chat)
    return "chat_restored", {"chatId": chat.id, "chat": response, "durability": durability(chat)}


async def _draft(parts: Parts, item: Item, chat: ChatInCache) -> tuple[str, dict[str, Any]] | None:
    if chat.version > item.version:
        return None  # the entry of the newer revision is behind this one
    try:
        raw = await open_draft(parts, chat)
    except Undecryptable:
        # Not as an event with an empty draft: the record says what does not open.
        return await _restored(parts, chat)
    return "draft_updated", {
        "chatId": chat.id,
        "version": chat.version,
        "op": chat.draft_op,
        "content": fragment(raw),
        "reason": chat.draft_state if chat.draft_state != "none" else "deleted",
        "durability": "stored" if chat.in_store and chat.stored_version >= chat.version else "cached",
        "updatedAt": rfc3339(chat.draft_at or chat.updated_at),
    }


async def _title(parts: Parts, item: Item, chat: ChatInCache) -> tuple[str, dict[str, Any]] | None:
    if chat.title_version > item.version:
        return None
    try:
        title = await open_title(parts, chat)
    except Undecryptable:
        return await _restored(parts, chat)
    stored = chat.in_store and chat.stored_title_version >= chat.title_version
    return "title_updated", {
        "chatId": chat.id,
        "title": title,
        "titleVersion": chat.title_version,
        "op": chat.title_op,
        "durability": "stored" if stored else "cached",
    }


async def _find(parts: Parts, item: Item, chat: ChatInCache) -> MessageInCache | None:
    for message in chat.messages:
        if message.id == item.ref:
            return message
    if item.ref is None:
        return None
    message_id = MessageId(item.ref)
    row = (await parts.store.find(chat.user, chat.id, [message_id])).get(message_id)
    return delivered(row) if row is not None else None


async def _message(parts: Parts, item: Item, chat: ChatInCache) -> tuple[str, dict[str, Any]] | None:
    message = await _find(parts, item, chat)
    if message is None:
        return None
    bad: list[str] = []
    response = await message_response(parts, chat.key, message, bad)
    event = {"message": response, "messagesVersion": item.version}
    return "message_new", {**event, "undecryptable": bad} if bad else event


async def _update(parts: Parts, item: Item, chat: ChatInCache) -> tuple[str, dict[str, Any]] | None:
    message = await _find(parts, item, chat)
    if message is None:
        return None
    return "message_update", {
        "chatId": chat.id,
        "messageId": message.id,
        "status": message.status,
        "messagesVersion": item.version,
    }
