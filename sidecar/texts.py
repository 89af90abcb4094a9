"""Plaintext on its way in and out: the only use case file that seals and opens (semantics §8)."""

from __future__ import annotations

from typing import Any

from sidecar.changes import ChatInCache
from sidecar.documents import Document, DocumentLimits, document, dump
from sidecar.errors import Unavailable, Undecryptable, WireError
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import ChatId, KeyReference, MessageId, UserHash
from sidecar.parts import Parts
from sidecar.records import ChatInDB, Field, MessageInDB, Sealed


def content_of(
    parts: Parts, value: Any, max_bytes: int, path: str = "content", frame: ClientFrame | None = None
) -> Document:
    """What a client sent as content, within the limits. With an end-to-end cipher it is a string, which nobody here reads.

    `frame`: the one whose payload's `content` it is; what was learned in reading that is not learned again.
    """
    limits = parts.settings.documents
    if not parts.cipher.end_to_end:
        if max_bytes != limits.max_bytes:
            limits = DocumentLimits(max_bytes, limits.max_depth, limits.max_nodes)
        if frame is not None:
            return document(value, limits, path, frame.content, frame.levels)
        return document(value, limits, path)
    if not isinstance(value, str):
        raise WireError(
            "bad_payload",
            "content is a string here: the client seals it (encryption passthrough)",
            details={"path": f"payload.{path}"},
        )
    raw = dump(value)
    if len(raw) > max_bytes:
        raise WireError(
            "too_large",
            f"the content has more than {max_bytes} bytes",
            details={"limit": max_bytes, "unit": "bytes", "path": f"payload.{path}"},
        )
    return Document(raw)


def title_of(parts: Parts, title: str | None, path: str = "title") -> bytes | None:
    """A title as bytes, within the limit of characters; with an end-to-end cipher, which grows it, four times as many."""
    if title is None:
        return None
    limit = parts.settings.title_length * (4 if parts.cipher.end_to_end else 1)
    if len(title) > limit:
        raise WireError(
            "too_large",
            f"a title has at most {limit} characters",
            details={"limit": limit, "unit": "characters", "path": f"payload.{path}"},
        )
    return title.encode()


async def _seal(parts: Parts, key: KeyReference, field: Field, raw: bytes) -> Sealed:
    try:
        return await parts.cipher.seal(key, field, raw)
    except Unavailable:
        # The key may have been pruned by another process: the next try asks for it anew.
        parts.references.drop(field.user, field.chat_id)
        raise


async def seal_draft(
    parts: Parts, key: KeyReference, user: UserHash, chat_id: ChatId, version: int, raw: bytes
) -> Sealed:
    return await _seal(parts, key, Field(user, chat_id, "draft", chat_id, version), raw)


async def seal_title(
    parts: Parts, key: KeyReference, user: UserHash, chat_id: ChatId, version: int, title: bytes
) -> Sealed:
    return await _seal(parts, key, Field(user, chat_id, "title", chat_id, version), title)


async def seal_message(
    parts: Parts, key: KeyReference, user: UserHash, chat_id: ChatId, message_id: MessageId, raw: bytes
) -> Sealed:
    return await _seal(parts, key, Field(user, chat_id, "message", message_id, 0), raw)


async def open_draft(parts: Parts, chat: ChatInCache) -> bytes | None:
    """The draft's JSON. Raises `Undecryptable`, `KeyGone`, `Unavailable`."""
    if chat.draft is None:
        return None
    try:
        return await open_draft_of(parts, chat, chat.draft, chat.version)
    except Undecryptable:
        row = await _row(parts, chat) if chat.version <= chat.stored_version else None
        if row is None or row.version != chat.version or row.draft is None or row.draft == chat.draft:
            raise
    raw = await open_draft_of(parts, chat, row.draft, row.version)
    await parts.cache.chats.drop(chat.user, [chat.id])
    return raw


async def open_draft_of(parts: Parts, chat: ChatInCache, sealed: Sealed, version: int) -> bytes:
    """A draft of this chat that was sealed for another version than its current one."""
    return await parts.cipher.open(chat.key, Field(chat.user, chat.id, "draft", chat.id, version), sealed)


async def open_title(parts: Parts, chat: ChatInCache) -> str | None:
    """As `open_draft`."""
    if chat.title is None:
        return None
    try:
        return await open_title_of(parts, chat, chat.title, chat.title_version)
    except Undecryptable:
        row = await _row(parts, chat) if chat.title_version <= chat.stored_title_version else None
        if row is None or row.title_version != chat.title_version or row.title is None or row.title == chat.title:
            raise
    title = await open_title_of(parts, chat, row.title, row.title_version)
    await parts.cache.chats.drop(chat.user, [chat.id])
    return title


async def open_title_of(parts: Parts, chat: ChatInCache, sealed: Sealed, version: int) -> str:
    raw = await parts.cipher.open(chat.key, Field(chat.user, chat.id, "title", chat.id, version), sealed)
    return raw.decode()


async def open_message(parts: Parts, key: KeyReference, message: MessageInDB) -> bytes:
    """As `open_draft`."""
    user, chat_id = message.hashed_user_id, message.chat_id
    field = Field(user, chat_id, "message", message.id, 0)
    try:
        return await parts.cipher.open(key, field, message.content)
    except Undecryptable:
        try:
            row = (await parts.store.find(user, chat_id, [message.id])).get(message.id)
        except Unavailable:
            row = None
        if row is None or row.content == message.content:
            raise
    raw = await parts.cipher.open(key, field, row.content)
    await parts.cache.chats.drop(user, [chat_id])
    return raw


async def _row(parts: Parts, chat: ChatInCache) -> ChatInDB | None:
    """What the store has of a chat whose cached copy does not open: a clean copy is worth no more than its source (threats T29)."""
    try:
        return (await parts.store.known(chat.user, [chat.id])).get(chat.id)
    except Unavailable:
        return None
