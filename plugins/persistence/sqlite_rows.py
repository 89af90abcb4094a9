"""Rows and records. A row that cannot be read whole comes as far as it can, is counted, and is logged by its id."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from typing import Any

from plugins.persistence.cells import EPOCH, Cells
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

CHAT_COLUMNS = tuple(ChatInDB.model_fields)
MESSAGE_COLUMNS = tuple(MessageInDB.model_fields)
DEVICE_COLUMNS = tuple(DeviceInDB.model_fields)

_TICK = timedelta(milliseconds=1)


def ticks(time: datetime) -> int:
    """Milliseconds since 1970, UTC, cut (not rounded) as all stores keep them."""
    try:
        return (time - EPOCH) // _TICK
    except TypeError:
        raise Unstorable("a time of the row has no time zone; times are UTC") from None


def values(record: ChatInDB | MessageInDB | DeviceInDB) -> dict[str, Any]:
    """The record's columns and their values, as SQLite takes them."""
    row = {name: getattr(record, name) for name in type(record).model_fields}
    for name, value in row.items():
        if isinstance(value, datetime):
            row[name] = ticks(value)
    return row


class _Cells(Cells):
    def __init__(self, row: sqlite3.Row) -> None:
        super().__init__()
        self._row = row

    def _cell(self, name: str) -> Any:
        return self._row[name]

    def _time_of(self, value: Any) -> datetime | None:
        try:
            return EPOCH + value * _TICK if isinstance(value, int) else None
        except OverflowError:
            return None

    def _bytes_of(self, value: Any) -> bytes | None:
        return value if isinstance(value, bytes) else None


def chat_of(row: sqlite3.Row, damage: Damage) -> ChatInDB:
    """The chat of a row, as far as it can be read."""
    cells = _Cells(row)
    return cells.chat(UserHash(cells.text("hashed_user_id")), ChatId(cells.text("id")), damage)


def message_of(row: sqlite3.Row, damage: Damage) -> MessageInDB:
    """The message of a row, as far as it can be read."""
    cells = _Cells(row)
    user, chat_id = UserHash(cells.text("hashed_user_id")), ChatId(cells.text("chat_id"))
    return cells.message(user, chat_id, MessageId(cells.text("id")), damage)


def device_of(row: sqlite3.Row, damage: Damage) -> DeviceInDB:
    """The device of a row, as far as it can be read."""
    cells = _Cells(row)
    return cells.device(UserHash(cells.text("hashed_user_id")), DeviceId(cells.text("id")), damage)
