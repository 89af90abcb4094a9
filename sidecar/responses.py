"""Records as clients get them: opened, with what does not open named in `undecryptable` (protocol *Records*)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from sidecar.changes import ChatInCache, Replaced
from sidecar.documents import same
from sidecar.errors import Undecryptable
from sidecar.ids import KeyReference
from sidecar.parts import Parts
from sidecar.records import MessageInCache, rfc3339
from sidecar.texts import open_draft, open_draft_of, open_message, open_title, open_title_of

ENVELOPE = 2048
"""Bytes of a frame besides its chats or messages, at most."""
_TAIL = 448
"""Bytes of a message's frame besides content and name, at most: three ids, a time, the keys, its place in `undecryptable`."""


def durability(chat: ChatInCache) -> str:
    """`stored` when the store has everything of this chat."""
    return "stored" if chat.in_store and not chat.dirty else "cached"


def fragment(raw: bytes | None) -> orjson.Fragment | None:
    """An opened text to stand in a payload as it is."""
    return orjson.Fragment(raw) if raw is not None else None


async def chat_response(
    parts: Parts,
    chat: ChatInCache,
    *,
    draft: bool = True,
    title: bool = True,
    messages: Sequence[MessageInCache] | None = None,
    more: bool = False,
    budget: int | None = None,
) -> dict[str, Any]:
    """A `ChatResponse`. What is not asked for is absent.

    `messages` (by sequence, the newest last) are cut from the oldest to fit into `budget` bytes; `more` says whether there
    are older ones besides. `messages_version` goes with them, or with a whole record.
    Raises `KeyGone` and `Unavailable`.
    """
    bad: list[str] = []
    response: dict[str, Any] = {"id": chat.id}
    if title:
        try:
            text = await open_title(parts, chat)
            response["title"] = text
            if budget is not None and text is not None:
                budget -= len(orjson.dumps(text))
        except (Undecryptable, UnicodeDecodeError):
            response["title"] = None
            bad.append("title")
        response["title_version"] = chat.title_version
        response["title_op"] = chat.title_op
    if draft:
        try:
            raw = await open_draft(parts, chat)
        except Undecryptable:
            raw = None
            bad.append("draft")
        response["draft"] = fragment(raw)
        response["version"] = chat.version
        response["draft_op"] = chat.draft_op
        response["draft_state"] = chat.draft_state
        if budget is not None and raw is not None:
            budget -= len(raw)
    if (draft and title) or messages is not None:
        response["messages_version"] = chat.messages_version
    response["created_at"] = rfc3339(chat.created_at)
    response["updated_at"] = rfc3339(chat.updated_at)
    last = chat.last_message_timestamp
    response["last_message_timestamp"] = rfc3339(last) if last is not None else None
    response["persisted"] = chat.persisted
    response["durability"] = durability(chat)
    if messages is not None:
        opened: list[dict[str, Any]] = []
        for message in reversed(messages):
            if budget is not None:
                budget -= size_of(message)
                if budget < 0:
                    more = True
                    break
            opened.append(await message_response(parts, chat.key, message, bad))
        opened.reverse()
        response["messages"] = opened
        response["has_more_messages"] = more
    for field in bad:
        if field in ("title", "draft"):
            parts.metrics.undecryptable.labels(field).inc()
    response["undecryptable"] = bad
    return response


def size_of(message: MessageInCache) -> int:
    """Bytes that the message takes in a frame, at most."""
    return len(message.content) + _TAIL + len(orjson.dumps(message.sender_name))


async def message_response(
    parts: Parts, key: KeyReference, message: MessageInCache, bad: list[str] | None = None
) -> dict[str, Any]:
    """A `MessageResponse`; a content that does not open is null and its id goes into `bad`."""
    content: orjson.Fragment | None = None
    try:
        content = fragment(await open_message(parts, key, message))
    except Undecryptable:
        parts.metrics.undecryptable.labels("message").inc()
        if bad is not None:
            bad.append(message.id)
    return {
        "id": message.id,
        "chat_id": message.chat_id,
        "client_message_id": message.client_message_id,
        "role": message.role,
        "sender_name": message.sender_name,
        "content": content,
        "status": message.status,
        "sequence": message.sequence,
        "created_at": rfc3339(message.created_at),
    }


async def replaced_texts(
    parts: Parts, chat: ChatInCache, replaced: Replaced | None, *, draft: bytes | None, title: str | None
) -> dict[str, Any] | None:
    """`replaced` of an answer: the texts that had to give way, with their revisions.

    What gave way to the same text (`draft`, `title`) was not replaced; what does not open cannot be given back.
    Raises `KeyGone` and `Unavailable`.
    """
    if replaced is None:
        return None
    texts: dict[str, Any] = {}
    if replaced.draft is not None:
        try:
            raw = await open_draft_of(parts, chat, replaced.draft, replaced.draft_version)
        except Undecryptable:
            parts.metrics.undecryptable.labels("draft").inc()
        else:
            if not same(raw, draft):
                texts["draft"] = {"content": fragment(raw), "version": replaced.draft_version, "op": replaced.draft_op}
    if replaced.title is not None:
        try:
            text = await open_title_of(parts, chat, replaced.title, replaced.title_version)
        except (Undecryptable, UnicodeDecodeError):
            parts.metrics.undecryptable.labels("title").inc()
        else:
            if text != title:
                texts["title"] = {"title": text, "version": replaced.title_version, "op": replaced.title_op}
    return texts or None
