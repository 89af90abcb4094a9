"""Records from two places become one (semantics §6, §7)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sidecar.changes import ChatInCache
from sidecar.ids import KeyReference, chat_id_of, hash_user, message_id_of
from sidecar.merge import merge
from sidecar.records import ChatInDB, MessageInCache, MessageInDB, Page, Sealed, Status

_USER = hash_user("alice")
_CHAT = chat_id_of(_USER, "one")
_AT = datetime(2026, 5, 1, tzinfo=UTC)


def _message(client_id: str, sequence: int) -> MessageInDB:
    return MessageInDB(
        id=message_id_of(_CHAT, client_id),
        chat_id=_CHAT,
        hashed_user_id=_USER,
        client_message_id=client_id,
        role="user",
        sender_name=None,
        content=Sealed(b"text"),
        sequence=sequence,
        created_at=_AT,
    )


def _here(client_id: str, sequence: int, status: Status) -> MessageInCache:
    return MessageInCache(**_message(client_id, sequence).model_dump(), status=status)


def _row(messages_version: int) -> ChatInDB:
    return ChatInDB(
        id=_CHAT,
        hashed_user_id=_USER,
        vault_key_reference=KeyReference("key"),
        messages_version=messages_version,
        created_at=_AT,
        updated_at=_AT,
    )


def _cached(*messages: MessageInCache, messages_version: int) -> ChatInCache:
    chat = ChatInCache(_CHAT, _USER, KeyReference("key"), "0" * 20, _AT, _AT, messages_version=messages_version)
    return chat.with_messages(messages, 100)


@pytest.mark.parametrize("status", ["sent", "error"])
def test_a_message_whose_delivery_was_not_told_yet_is_not_delivered_by_a_merge(status: Status) -> None:
    """§4: each change of a status takes the next `messages_version` and reaches every device; a merge can do neither."""
    cached = _cached(_here("m1", 1, "delivered"), _here("m2", 2, status), _here("m3", 3, "sent"), messages_version=4)
    page = Page([_message("m2", 2), _message("m1", 1)], more=False, total=2)
    merged = merge(cached, _row(4), "1" * 20, page)
    assert merged is not None
    assert [(each.sequence, each.status) for each in merged.messages] == [(1, "delivered"), (2, status), (3, "sent")]
    assert (merged.undelivered, merged.messages_version, merged.epoch) == (2, 4, "1" * 20)


def test_what_the_store_alone_has_is_delivered() -> None:
    page = Page([_message("m2", 2), _message("m1", 1)], more=True, total=9)
    merged = merge(_cached(_here("m2", 2, "delivered"), messages_version=2), _row(4), "1" * 20, page)
    assert merged is not None
    assert [(each.sequence, each.status) for each in merged.messages] == [(1, "delivered"), (2, "delivered")]
    assert (merged.undelivered, merged.messages_version, merged.older) == (0, 4, True)
