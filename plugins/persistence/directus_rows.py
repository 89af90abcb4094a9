"""Rows of Directus and records. Ids are made so that a key alone, which is all that a deletion reports, names person and chat."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from plugins.persistence.cells import Cells
from plugins.persistence.damage import Damage
from sidecar import (
    ChatId,
    ChatInDB,
    DeviceId,
    DeviceInDB,
    MessageId,
    MessageInDB,
    Unstorable,
    UserHash,
)

Row = Mapping[str, Any]

CHAT_FIELDS = (
    "id",
    "hashed_user_id",
    *(name for name in ChatInDB.model_fields if name not in ("id", "hashed_user_id")),
)
MESSAGE_FIELDS = ("id", *(name for name in MessageInDB.model_fields if name != "id"))
DEVICE_FIELDS = tuple(DeviceInDB.model_fields)

_HASH = 64
_PREFIX = 8


# -- keys --------------------------------------------------------------------------------------------------------------


def chat_key(user: UserHash, chat_id: ChatId) -> str:
    """The primary key of a chat: two persons whose hashes begin alike may have the same chat id, and have two rows."""
    return f"{user}_{chat_id[_PREFIX + 1 :]}"


def message_key(user: UserHash, chat_id: ChatId, message_id: MessageId) -> str:
    return f"{chat_key(user, chat_id)}_{message_id}"


def device_key(user: UserHash, device_id: DeviceId) -> str:
    return f"{user}_{device_id}"


def chat_of_key(key: str) -> tuple[UserHash, ChatId] | None:
    """Whose chat this is the key of; None if it is none that the sidecar made."""
    user, separator, rest = key[:_HASH], key[_HASH : _HASH + 1], key[_HASH + 1 :]
    if separator != "_" or not rest or "_" in rest or not all(each in "0123456789abcdef" for each in user):
        return None
    return UserHash(user), ChatId(f"{user[:_PREFIX]}_{rest}")


def message_of_key(key: str) -> tuple[UserHash, ChatId, MessageId] | None:
    """Whose message this is the key of; None if it is none that the sidecar made."""
    chat, separator, message_id = key.rpartition("_")
    found = chat_of_key(chat) if separator and message_id else None
    return (*found, MessageId(message_id)) if found is not None else None


# -- to a row ----------------------------------------------------------------------------------------------------------


def written(time: datetime | None) -> str | None:
    """As Directus takes a time: UTC, cut to milliseconds as all stores keep them."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise Unstorable("a time of the row has no time zone; times are UTC")
    return time.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def sealed(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def chat_row(chat: ChatInDB) -> dict[str, Any]:
    """All of it."""
    return _as_row(chat) | {
        "id": chat_key(chat.hashed_user_id, chat.id),
        "title": sealed(chat.title),
        "draft": sealed(chat.draft),
    }


def message_row(message: MessageInDB) -> dict[str, Any]:
    return _as_row(message) | {
        "id": message_key(message.hashed_user_id, message.chat_id, message.id),
        "message_id": message.id,
        "chat_id": chat_key(message.hashed_user_id, message.chat_id),
        "content": sealed(message.content),
    }


def device_row(device: DeviceInDB) -> dict[str, Any]:
    return _as_row(device) | {"id": device_key(device.hashed_user_id, device.id)}


def _as_row(record: ChatInDB | MessageInDB | DeviceInDB) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in type(record).model_fields:
        value = getattr(record, name)
        row[name] = written(value) if isinstance(value, datetime) else value
        if isinstance(value, str) and not _encodable(value):
            raise Unstorable(f"the field {name} of the row cannot be written to a database")
    return row


def _encodable(text: str) -> bool:
    # A lone surrogate is no text, and PostgreSQL takes no NUL.
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


# -- from a row --------------------------------------------------------------------------------------------------------


def read_time(value: object) -> datetime | None:
    """The time in a row; None if there is none that can be read."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)


class _Cells(Cells):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self._row = row

    def _cell(self, name: str) -> Any:
        return self._row.get(name)

    def _time_of(self, value: Any) -> datetime | None:
        return read_time(value)

    def _bytes_of(self, value: Any) -> bytes | None:
        try:
            return base64.b64decode(value, validate=True) if isinstance(value, str) else None
        except (binascii.Error, ValueError):
            return None


def chat_of(row: Row, damage: Damage) -> ChatInDB | None:
    """The chat of a row, as far as it can be read. None for a row whose key is none of ours: nobody's device made it."""
    found = chat_of_key(str(row.get("id")))
    if found is None:
        damage.note("chat", str(row.get("id"))[:200], ["id"])
        return None
    return _Cells(row).chat(*found, damage)


def message_of(row: Row, damage: Damage) -> MessageInDB | None:
    """The message of a row, as far as it can be read; None for a key that is none of ours."""
    found = message_of_key(str(row.get("id")))
    if found is None:
        damage.note("message", str(row.get("id"))[:200], ["id"])
        return None
    return _Cells(row).message(*found, damage)


def device_of(row: Row, damage: Damage) -> DeviceInDB:
    """The device of a row, as far as it can be read."""
    key = str(row.get("id"))
    return _Cells(row).device(UserHash(key[:_HASH]), DeviceId(key[_HASH + 1 :]), damage)
