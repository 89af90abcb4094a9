"""Rows of Directus and records. Ids are made so that a key alone, which is all that a deletion reports, names person and chat."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from plugins.persistence.damage import Damage
from sidecar import (
    ChatId,
    ChatInDB,
    DeviceId,
    DeviceInDB,
    KeyReference,
    MessageId,
    MessageInDB,
    Sealed,
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

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HASH = 64
_PREFIX = 8
_DRAFT_STATES = ("none", "edited", "consumed", "deleted")
_ROLES = ("user", "assistant", "system")


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


def read_count(value: object) -> int | None:
    """A version or a place; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class _Cells:
    """One row, field by field; what is not as it should be is replaced and listed in `wrong`."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.wrong: list[str] = []

    def text(self, name: str, otherwise: str = "") -> str:
        value = self._row.get(name)
        if isinstance(value, str):
            return value
        self.wrong.append(name)
        return otherwise

    def text_or_none(self, name: str) -> str | None:
        return None if self._row.get(name) is None else self.text(name) or None

    def word(self, name: str, words: tuple[str, ...], otherwise: str) -> str:
        value = self._row.get(name)
        if value in words:
            return str(value)
        self.wrong.append(name)
        return otherwise

    def count(self, name: str) -> int:
        value = read_count(self._row.get(name))
        if value is None:
            self.wrong.append(name)
        return value or 0

    def time(self, name: str) -> datetime:
        value = read_time(self._row.get(name))
        if value is None:
            self.wrong.append(name)
        return value or _EPOCH

    def time_or_none(self, name: str) -> datetime | None:
        if self._row.get(name) is None:
            return None
        value = read_time(self._row.get(name))
        if value is None:
            self.wrong.append(name)
        return value

    def sealed(self, name: str) -> Sealed:
        # Something that is no sealed value goes on as bytes that will not open, and so reaches the person as
        # `undecryptable`. As null it would say that the text had been cleared, and devices would drop their copies.
        value = self._row.get(name)
        if isinstance(value, str):
            try:
                return Sealed(base64.b64decode(value, validate=True))
            except (binascii.Error, ValueError):
                pass
        self.wrong.append(name)
        return Sealed(b"" if value is None else str(value).encode("utf-8", "replace"))

    def sealed_or_none(self, name: str) -> Sealed | None:
        return None if self._row.get(name) is None else self.sealed(name)


def chat_of(row: Row, damage: Damage) -> ChatInDB | None:
    """The chat of a row. Where a field is wrong: versions 0, ops null, times 1970, texts as bytes that do not open.

    None for a row whose key is none of ours: nobody's device made it.
    """
    found = chat_of_key(str(row.get("id")))
    if found is None:
        damage.note("chat", str(row.get("id"))[:200], ["id"])
        return None
    user, chat_id = found
    cells = _Cells(row)
    draft = cells.sealed_or_none("draft")
    chat = ChatInDB.model_construct(
        id=chat_id,
        hashed_user_id=user,
        vault_key_reference=KeyReference(cells.text("vault_key_reference")),
        title=cells.sealed_or_none("title"),
        title_version=cells.count("title_version"),
        title_op=cells.text_or_none("title_op"),
        draft=draft,
        version=cells.count("version"),
        draft_op=cells.text_or_none("draft_op"),
        draft_state=cells.word("draft_state", _DRAFT_STATES, "none" if draft is None else "edited"),
        messages_version=cells.count("messages_version"),
        created_at=cells.time("created_at"),
        updated_at=cells.time("updated_at"),
        last_message_timestamp=cells.time_or_none("last_message_timestamp"),
    )
    if cells.wrong:
        damage.note("chat", chat.id, cells.wrong)
    return chat


def message_of(row: Row, damage: Damage) -> MessageInDB | None:
    """The message of a row; None for a key that is none of ours. A role that is none becomes `system`: the words are laid in nobody's mouth."""
    found = message_of_key(str(row.get("id")))
    if found is None:
        damage.note("message", str(row.get("id"))[:200], ["id"])
        return None
    user, chat_id, message_id = found
    cells = _Cells(row)
    message = MessageInDB.model_construct(
        id=message_id,
        chat_id=chat_id,
        hashed_user_id=user,
        client_message_id=cells.text_or_none("client_message_id"),
        role=cells.word("role", _ROLES, "system"),
        sender_name=cells.text_or_none("sender_name"),
        content=cells.sealed("content"),
        sequence=cells.count("sequence"),
        created_at=cells.time("created_at"),
    )
    if cells.wrong:
        damage.note("message", message.id, cells.wrong)
    return message


def device_of(row: Row, damage: Damage) -> DeviceInDB:
    """The device of a row. Without a readable secret its hash is empty, which no secret matches: the device must enrol again."""
    key = str(row.get("id"))
    cells = _Cells(row)
    device = DeviceInDB.model_construct(
        id=DeviceId(key[_HASH + 1 :]),
        hashed_user_id=UserHash(key[:_HASH]),
        secret_hash=cells.text("secret_hash"),
        name=cells.text("name"),
        fingerprint=cells.text("fingerprint", "{}"),
        first_seen=cells.time("first_seen"),
        last_seen=cells.time("last_seen"),
        verified_at=cells.time_or_none("verified_at"),
    )
    if cells.wrong:
        damage.note("device", device.id, cells.wrong)
    return device
