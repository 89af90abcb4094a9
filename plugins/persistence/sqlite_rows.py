"""Rows and records. A row that cannot be read whole comes as far as it can, is counted, and is logged by its id."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
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

CHAT_COLUMNS = tuple(ChatInDB.model_fields)
MESSAGE_COLUMNS = tuple(MessageInDB.model_fields)
DEVICE_COLUMNS = tuple(DeviceInDB.model_fields)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(milliseconds=1)
_DRAFT_STATES = ("none", "edited", "consumed", "deleted")
_ROLES = ("user", "assistant", "system")


def ticks(time: datetime) -> int:
    """Milliseconds since 1970, UTC, cut (not rounded) as all stores keep them."""
    try:
        return (time - _EPOCH) // _TICK
    except TypeError:
        raise Unstorable("a time of the row has no time zone; times are UTC") from None


def values(record: ChatInDB | MessageInDB | DeviceInDB) -> dict[str, Any]:
    """The record's columns and their values, as SQLite takes them."""
    row = {name: getattr(record, name) for name in type(record).model_fields}
    for name, value in row.items():
        if isinstance(value, datetime):
            row[name] = ticks(value)
    return row


class _Cells:
    """One row, column by column; what is not as it should be is replaced and listed in `wrong`."""

    def __init__(self, row: sqlite3.Row) -> None:
        self._row = row
        self.wrong: list[str] = []

    def text(self, name: str, otherwise: str = "") -> str:
        value = self._row[name]
        if isinstance(value, str):
            return value
        self.wrong.append(name)
        return otherwise

    def text_or_none(self, name: str) -> str | None:
        return None if self._row[name] is None else self.text(name) or None

    def word(self, name: str, words: tuple[str, ...], otherwise: str) -> str:
        value = self._row[name]
        if value in words:
            return str(value)
        self.wrong.append(name)
        return otherwise

    def count(self, name: str) -> int:
        value = self._row[name]
        if isinstance(value, int) and value >= 0:
            return value
        self.wrong.append(name)
        return 0

    def time(self, name: str) -> datetime:
        value = self._row[name]
        if isinstance(value, int):
            try:
                return _EPOCH + value * _TICK
            except OverflowError:
                pass
        self.wrong.append(name)
        return _EPOCH

    def time_or_none(self, name: str) -> datetime | None:
        before = len(self.wrong)
        if self._row[name] is None:
            return None
        time = self.time(name)
        return time if len(self.wrong) == before else None

    def sealed(self, name: str) -> Sealed:
        # Something that is no sealed value goes on as bytes that will not open, and so reaches the person as
        # `undecryptable`. As null it would say that the text had been cleared, and devices would drop their copies.
        value = self._row[name]
        if isinstance(value, bytes):
            return Sealed(value)
        self.wrong.append(name)
        return Sealed(b"" if value is None else str(value).encode("utf-8", "replace"))

    def sealed_or_none(self, name: str) -> Sealed | None:
        return None if self._row[name] is None else self.sealed(name)


def chat_of(row: sqlite3.Row, damage: Damage) -> ChatInDB:
    """The chat of a row. Where a column is wrong: versions 0, ops null, times 1970, texts as bytes that do not open."""
    cells = _Cells(row)
    draft = cells.sealed_or_none("draft")
    chat = ChatInDB.model_construct(
        id=ChatId(cells.text("id")),
        hashed_user_id=UserHash(cells.text("hashed_user_id")),
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


def message_of(row: sqlite3.Row, damage: Damage) -> MessageInDB:
    """The message of a row. A role that is none of ours becomes `system`: the words are laid in nobody's mouth."""
    cells = _Cells(row)
    message = MessageInDB.model_construct(
        id=MessageId(cells.text("id")),
        chat_id=ChatId(cells.text("chat_id")),
        hashed_user_id=UserHash(cells.text("hashed_user_id")),
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


def device_of(row: sqlite3.Row, damage: Damage) -> DeviceInDB:
    """The device of a row. Without a readable secret its hash is empty, which no secret matches: the device must enrol again."""
    cells = _Cells(row)
    device = DeviceInDB.model_construct(
        id=DeviceId(cells.text("id")),
        hashed_user_id=UserHash(cells.text("hashed_user_id")),
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
