"""Rows to test stores with: every field filled, sealed bytes that are no text."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from sidecar.ids import DeviceId, KeyReference, UserHash, chat_id_of, hash_user, message_id_of
from sidecar.records import ChatInDB, DeviceInDB, MessageInDB, Sealed

ALICE = hash_user("alice")
BOB = hash_user("bob")
NOON = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)


def a_chat(name: str = "one", user: UserHash = ALICE, **changes: Any) -> ChatInDB:
    """A chat that has a message, every field filled."""
    fields: dict[str, Any] = {
        "id": chat_id_of(user, name),
        "hashed_user_id": user,
        "vault_key_reference": KeyReference(f"key/{user[:8]}/{name}"),
        "title": Sealed(b"\x01title \x00\xff of " + name.encode()),
        "title_version": 2,
        "title_op": "op-title-2",
        "draft": Sealed(b"\x01draft \x00\xff of " + name.encode()),
        "version": 5,
        "draft_op": "op-draft-5",
        "draft_state": "edited",
        "messages_version": 3,
        "created_at": NOON - timedelta(days=1),
        "updated_at": NOON,
        "last_message_timestamp": NOON - timedelta(minutes=1),
    }
    return ChatInDB(**(fields | changes))


def a_message(chat: ChatInDB, name: str = "m1", sequence: int = 1, **changes: Any) -> MessageInDB:
    """A message of this chat, every field filled."""
    fields: dict[str, Any] = {
        "id": message_id_of(chat.id, name),
        "chat_id": chat.id,
        "hashed_user_id": chat.hashed_user_id,
        "client_message_id": name,
        "role": "user",
        "sender_name": "Zoë 🌍 نور",
        "content": Sealed(b"\x01content \x00\xff of " + name.encode()),
        "sequence": sequence,
        "created_at": NOON + timedelta(seconds=sequence),
    }
    return MessageInDB(**(fields | changes))


def a_device(name: str = "laptop", user: UserHash = ALICE, **changes: Any) -> DeviceInDB:
    """A device, every field filled."""
    fields: dict[str, Any] = {
        "id": DeviceId(f"dev-{name}"),
        "hashed_user_id": user,
        "secret_hash": hashlib.sha256(name.encode()).hexdigest(),
        "name": name,
        "fingerprint": '{"browser": "Firefox"}',
        "first_seen": NOON - timedelta(days=2),
        "last_seen": NOON,
        "verified_at": NOON - timedelta(days=1),
    }
    return DeviceInDB(**(fields | changes))
