"""Chats, messages and log entries between the core's records and what Redis keeps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, cast

import msgpack

from plugins.cache.redis_layout import BODY, ITEM
from sidecar import (
    ChatId,
    ChatInCache,
    ConnectionId,
    DeviceId,
    Item,
    KeyReference,
    MessageId,
    MessageInCache,
    MessageInDB,
    Sealed,
    UserHash,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_packer = msgpack.Packer(use_bin_type=False, autoreset=True)


def pack(value: Any) -> bytes:
    """MessagePack as `cmsgpack` reads it: strings and bytes are one type there."""
    return cast(bytes, _packer.pack(value))


def unpack(packed: bytes) -> Any:
    """What a script packed; its strings come as bytes, since some of them are."""
    return msgpack.unpackb(packed, raw=True)


def micro(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=4096)  # an edited chat tells the same five times again and again
def time_of(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _time(value: Any) -> datetime | None:
    return time_of(value) if value is not False else None


def _text(value: Any) -> str | None:
    return value.decode() if value is not False and value is not None else None


def chat_of(
    user: UserHash,
    chat_id: ChatId,
    fields: Sequence[Any],
    draft: bytes | None,
    title: bytes | None,
    messages: tuple[MessageInCache, ...] = (),
) -> ChatInCache:
    """The record of a packed chat."""
    return ChatInCache.of(
        {
            "id": chat_id,
            "user": user,
            "epoch": fields[0].decode(),
            "key": KeyReference(fields[1].decode()),
            "created_at": time_of(fields[2]),
            "updated_at": time_of(fields[3]),
            "title": Sealed(title) if title is not None else None,
            "title_version": fields[4],
            "title_op": _text(fields[5]),
            "title_at": _time(fields[6]),
            "title_device": cast("DeviceId | None", _text(fields[7])),
            "draft": Sealed(draft) if draft is not None else None,
            "version": fields[8],
            "draft_op": _text(fields[9]),
            "draft_state": fields[10].decode(),
            "draft_at": _time(fields[11]),
            "draft_device": cast("DeviceId | None", _text(fields[12])),
            "messages_version": fields[13],
            "last_sequence": fields[14],
            "last_message_timestamp": _time(fields[15]),
            "stored_version": fields[16],
            "stored_title_version": fields[17],
            "in_store": fields[18],
            "doomed": fields[19],
            "older": fields[20],
            "undelivered": fields[21],
            "message_bytes": fields[22],
            "messages": messages,
        }
    )


def fields_of(chat: ChatInCache) -> list[Any]:
    """A record as a script packs it; what Redis keeps for itself is at its beginning."""
    return [
        *(chat.epoch, chat.key, micro(chat.created_at), micro(chat.updated_at)),
        *(chat.title_version, chat.title_op or False, micro(chat.title_at) if chat.title_at else False),
        *(chat.title_device or False, chat.version, chat.draft_op or False, chat.draft_state),
        *(micro(chat.draft_at) if chat.draft_at else False, chat.draft_device or False, chat.messages_version),
        *(chat.last_sequence, micro(chat.last_message_timestamp) if chat.last_message_timestamp else False),
        *(chat.stored_version, chat.stored_title_version, chat.in_store, chat.doomed, chat.older, chat.undelivered),
        *(chat.message_bytes, len(chat.draft) if chat.draft is not None else -1),
        *(len(chat.title) if chat.title is not None else -1, len(chat.messages), 0, 0, 0, 0, 0, 0, False),
    ]


def message_of(user: UserHash, chat_id: ChatId, index: Sequence[Any], body: bytes) -> MessageInCache:
    """The record of a message: its place in the index, and its body."""
    client_message_id, role, sender_name, content = unpack(body)[: len(BODY)]
    return MessageInCache.model_construct(
        id=MessageId(index[0].decode()),
        chat_id=chat_id,
        hashed_user_id=user,
        client_message_id=_text(client_message_id),
        role=role.decode(),
        sender_name=_text(sender_name),
        content=Sealed(content),
        sequence=index[1],
        created_at=time_of(index[3]),
        status=index[2].decode(),
    )


def body_of(message: MessageInDB) -> bytes:
    return pack([message.client_message_id, message.role, message.sender_name, message.content])


def index_of(messages: Sequence[MessageInCache]) -> list[list[Any]]:
    """The messages' places, in their order."""
    return [
        [each.id, each.sequence, each.status, micro(each.created_at), len(each.content), place]
        for place, each in enumerate(messages, 1)
    ]


def messages_of(
    user: UserHash, chat_id: ChatId, index: bytes | None, bodies: Sequence[bytes | None]
) -> tuple[MessageInCache, ...]:
    if index is None:
        return ()
    return tuple(
        message_of(user, chat_id, place, body)
        for place, body in zip(unpack(index), bodies, strict=True)
        if body is not None
    )


def item_of(packed: bytes, offset: int) -> Item:
    """An entry of the log."""
    tag, kind, chat_id, version, ref, connection, device, _ = unpack(packed)[: len(ITEM)]
    return Item(
        offset=offset,
        tag=tag.decode(),
        kind=kind.decode(),
        chat_id=cast("ChatId | None", _text(chat_id)),
        version=version,
        ref=_text(ref),
        connection=cast("ConnectionId | None", _text(connection)),
        device=cast("DeviceId | None", _text(device)),
    )
