"""What is read back from the file of `persistence.sqlite`."""

# ruff: noqa: S608 - the statements are put together of our own column names, never of a value

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from plugins.persistence import sqlite_writes as writes
from plugins.persistence.damage import Damage
from plugins.persistence.sqlite_connections import Connections
from plugins.persistence.sqlite_rows import (
    CHAT_COLUMNS,
    DEVICE_COLUMNS,
    MESSAGE_COLUMNS,
    chat_of,
    device_of,
    message_of,
    ticks,
)
from sidecar import ChatId, ChatInDB, DeviceId, DeviceInDB, MessageId, MessageInDB, Page, Store, UserHash

# Qualified, since json_each has an `id` too.
_CHAT = ", ".join(f"chats.{name}" for name in CHAT_COLUMNS)
_MESSAGE = ", ".join(f"messages.{name}" for name in MESSAGE_COLUMNS)
_DEVICE = ", ".join(DEVICE_COLUMNS)

# CROSS JOIN fixes the order: each id of the list is one look into the index. One statement for any number of ids.
KNOWN = f"""SELECT {_CHAT} FROM json_each(:ids) AS wanted CROSS JOIN chats
    ON chats.hashed_user_id = :user AND chats.id = wanted.value"""
FIND = f"""SELECT {_MESSAGE} FROM json_each(:ids) AS wanted CROSS JOIN messages
    ON messages.id = wanted.value AND messages.hashed_user_id = :user AND messages.chat_id = :chat"""
NEWEST_CHATS = f"""SELECT {_CHAT} FROM chats WHERE hashed_user_id = :user
    ORDER BY sorted_at DESC, id DESC LIMIT :limit"""
OLDER_CHATS = f"""SELECT {_CHAT} FROM chats WHERE hashed_user_id = :user AND (sorted_at, id) < (:at, :id)
    ORDER BY sorted_at DESC, id DESC LIMIT :limit"""
COUNT_CHATS = "SELECT count(*) FROM chats WHERE hashed_user_id = :user"
NEWEST_MESSAGES = f"""SELECT {_MESSAGE} FROM messages WHERE hashed_user_id = :user AND chat_id = :chat
    ORDER BY sorted_sequence DESC, id DESC LIMIT :limit"""
OLDER_MESSAGES = f"""SELECT {_MESSAGE} FROM messages WHERE hashed_user_id = :user AND chat_id = :chat
    AND (sorted_sequence, id) < (:sequence, :id) ORDER BY sorted_sequence DESC, id DESC LIMIT :limit"""
COUNT_MESSAGES = "SELECT count(*) FROM messages WHERE hashed_user_id = :user AND chat_id = :chat"
_PLACE = "SELECT sorted_sequence FROM messages WHERE id = :before AND hashed_user_id = :user AND chat_id = :chat"
# By rowid and not by key: whatever a damaged row has in its key, it is passed exactly once.
_EVERYTHING = f"SELECT rowid, {_CHAT} FROM chats WHERE rowid > ? ORDER BY rowid LIMIT 200"
_DEVICES = f"SELECT {_DEVICE} FROM devices WHERE hashed_user_id = ? ORDER BY first_seen, id"


class SqliteStore(Store):
    """The store on an open file."""

    def __init__(self, connections: Connections, damage: Damage) -> None:
        self._connections = connections
        self._damage = damage

    async def chats(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        """The person's chats, newest first by (updated_at, id); `total` counts all of them."""

        def query(connection: sqlite3.Connection) -> Page[ChatInDB]:
            asked: dict[str, object] = {"user": user, "limit": max(limit, 0) + 1}
            if before is not None:
                asked |= {"at": ticks(before[0]), "id": before[1]}
            rows = connection.execute(NEWEST_CHATS if before is None else OLDER_CHATS, asked).fetchall()
            total = connection.execute(COUNT_CHATS, {"user": user}).fetchone()[0]
            return Page([chat_of(row, self._damage) for row in rows[:limit]], len(rows) > limit, total)

        return await self._connections.read(query)

    async def known(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, ChatInDB]:
        if not ids:
            return {}

        def query(connection: sqlite3.Connection) -> Mapping[ChatId, ChatInDB]:
            rows = connection.execute(KNOWN, {"user": user, "ids": json.dumps(list(ids))})
            return {chat.id: chat for chat in (chat_of(row, self._damage) for row in rows)}

        return await self._connections.read(query)

    async def messages(
        self, user: UserHash, chat_id: ChatId, before: MessageId | None, limit: int
    ) -> Page[MessageInDB]:
        def query(connection: sqlite3.Connection) -> Page[MessageInDB]:
            asked: dict[str, object] = {"user": user, "chat": chat_id}
            total = connection.execute(COUNT_MESSAGES, asked).fetchone()[0]
            asked["limit"] = max(limit, 0) + 1
            if before is None:
                rows = connection.execute(NEWEST_MESSAGES, asked).fetchall()
            else:
                place = connection.execute(_PLACE, {"before": before, "user": user, "chat": chat_id}).fetchone()
                if place is None:
                    return Page((), False, total)
                rows = connection.execute(OLDER_MESSAGES, asked | {"sequence": place[0], "id": before}).fetchall()
            return Page([message_of(row, self._damage) for row in rows[:limit]], len(rows) > limit, total)

        return await self._connections.read(query)

    async def find(self, user: UserHash, chat_id: ChatId, ids: Sequence[MessageId]) -> Mapping[MessageId, MessageInDB]:
        if not ids:
            return {}

        def query(connection: sqlite3.Connection) -> Mapping[MessageId, MessageInDB]:
            rows = connection.execute(FIND, {"user": user, "chat": chat_id, "ids": json.dumps(list(ids))})
            return {message.id: message for message in (message_of(row, self._damage) for row in rows)}

        return await self._connections.read(query)

    async def everything(self) -> AsyncIterator[ChatInDB]:
        """In steps of 200, each of its own moment: a long run neither holds the log nor sees a chat twice."""
        last = 0
        while True:

            def query(connection: sqlite3.Connection, last: int = last) -> tuple[int, list[ChatInDB]]:
                rows = connection.execute(_EVERYTHING, (last,)).fetchall()
                return rows[-1]["rowid"] if rows else last, [chat_of(row, self._damage) for row in rows]

            last, chats = await self._connections.read(query)
            if not chats:
                return
            for chat in chats:
                yield chat

    async def reseal(self, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
        given = tuple(messages)
        await self._connections.write(lambda connection: writes.reseal(connection, chat, given))

    async def devices(self, user: UserHash) -> Sequence[DeviceInDB]:
        def query(connection: sqlite3.Connection) -> Sequence[DeviceInDB]:
            return [device_of(row, self._damage) for row in connection.execute(_DEVICES, (user,))]

        return await self._connections.read(query)

    async def put_device(self, device: DeviceInDB) -> None:
        await self._connections.write(lambda connection: writes.put_device(connection, device))

    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        await self._connections.write(lambda connection: writes.drop_device(connection, user, device))
