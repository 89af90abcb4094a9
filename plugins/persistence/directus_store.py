"""What is read back from Directus. Calls of one moment leave together, so that many people who come at once cost few calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from plugins.persistence.cells import count_of as count_of_cell
from plugins.persistence.damage import Damage
from plugins.persistence.directus_absent import Absent
from plugins.persistence.directus_changes import Changes
from plugins.persistence.directus_link import Link
from plugins.persistence.directus_messages import Messages
from plugins.persistence.directus_reads import all_of, rows_behind, rows_of
from plugins.persistence.directus_removals import Removals
from plugins.persistence.directus_rewrites import Devices, reseal
from plugins.persistence.directus_rows import (
    CHAT_FIELDS,
    DEVICE_FIELDS,
    Row,
    chat_key,
    chat_of,
    device_of,
    read_time,
    written,
)
from sidecar import (
    Batcher,
    ChatId,
    ChatInDB,
    DeviceId,
    DeviceInDB,
    Elsewhere,
    MessageId,
    MessageInDB,
    Page,
    Store,
    UserHash,
)

_KEYS = 250
"""Rows that are read by one call."""
_KEYS_AT_ONCE = 20_000
"""Keys that are read by one call, two or three megabytes."""
_LINGER = 0.02
"""Seconds that a read waits for as many as the one before it had."""
_FIELDS = (*CHAT_FIELDS, "ahead")
_NEVER = "1970-01-01T00:00:00.000Z"
"""The time with which a row without one is read."""


class DirectusStore(Store):
    """The store behind an open link."""

    def __init__(
        self, link: Link, devices: Devices, removals: Removals, changes: Changes, absent: Absent, damage: Damage
    ) -> None:
        self._link = link
        self._devices = devices
        self._removals = removals
        self._changes = changes
        self._absent = absent
        self._damage = damage
        self._chats: Batcher[str, Row | None] = Batcher(self._read_chats, most=_KEYS, linger=_LINGER)
        self._of_people: Batcher[UserHash, Sequence[DeviceInDB]] = Batcher(self._read_devices, most=_KEYS)
        self._messages = Messages(link, damage)

    # -- chats ---------------------------------------------------------------------------------------------------------

    async def known(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, ChatInDB]:
        if not ids:
            await self._link.prove()
        answers = [self._chats.ask(chat_key(user, chat_id)) for chat_id in dict.fromkeys(ids)]
        found = [chat_of(row, self._damage) for row in await all_of(answers) if row is not None]
        return {chat.id: chat for chat in found if chat is not None}

    async def chats(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        """The person's chats, newest first by (updated_at, id); `total` counts all of them. Rows without a time come last."""
        name, mine = self._link.names.chats, {"hashed_user_id": {"_eq": user}}
        wanted = max(limit, 0) + 1
        total = await self._link.count(name, mine)
        rows: list[Row] = []
        if before is None or written(before[0]) != _NEVER:
            place = (None, "") if before is None else (written(before[0]), chat_key(user, before[1]))
            rows = await rows_behind(self._link, name, _FIELDS, mine, "updated_at", place, wanted)
        dated = len(rows)
        if dated < wanted and (before is not None or dated < total):
            # Those that a hand left without a time: what they are read with is older than everything.
            last = chat_key(user, before[1]) if before is not None and written(before[0]) == _NEVER else ""
            undated = await self._link.every(
                name, filter={"_and": [mine, {"updated_at": {"_null": True}}]}, sort=["-id"], fields=list(_FIELDS)
            )
            rows += [row for row in undated if not last or str(row.get("id")) < last]
        # In the order of the rows, whatever their messages say: the next page goes on from the last row.
        found = [chat_of(row, self._damage) for row in await self._told_by_messages(rows[:limit], order=False)]
        return Page([chat for chat in found if chat is not None], len(rows) > limit, total)

    async def _read_chats(self, keys: Sequence[str]) -> Sequence[Row | Exception | None]:
        asked = self._absent.now()
        rows = await rows_of(self._link, self._link.names.chats, _FIELDS, keys)
        self._absent.note((key for key, row in zip(keys, rows, strict=True) if row is None), asked)
        told = iter(await self._told_by_messages([row for row in rows if isinstance(row, Mapping)]))
        return [next(told) if isinstance(row, Mapping) else row for row in rows]

    async def _told_by_messages(self, rows: Sequence[Row], *, order: bool = True) -> Sequence[Row]:
        """The rows, those that are marked with what their messages tell; without `order`, but for the time by which chats are sorted."""
        told: dict[str, tuple[int, datetime | None]] = {}
        for each in await self._link.among(
            self._link.names.messages,
            (str(row.get("id")) for row in rows if row.get("ahead") is not None),
            by="chat_id",
            aggregate={"max": ["messages_version", "created_at"]},
            groupBy=["chat_id"],
        ):
            most = each.get("max")
            if isinstance(most, Mapping):
                number = count_of_cell(most.get("messages_version")) or 0
                told[str(each.get("chat_id"))] = number, read_time(most.get("created_at"))
        return [_as_told(row, *told[key], order=order) if (key := str(row.get("id"))) in told else row for row in rows]

    # -- messages ------------------------------------------------------------------------------------------------------

    async def messages(
        self, user: UserHash, chat_id: ChatId, before: MessageId | None, limit: int
    ) -> Page[MessageInDB]:
        return await self._messages.page(user, chat_id, before, max(limit, 0))

    async def find(self, user: UserHash, chat_id: ChatId, ids: Sequence[MessageId]) -> Mapping[MessageId, MessageInDB]:
        return await self._messages.find(user, chat_id, ids)

    # -- everything, devices, changes ----------------------------------------------------------------------------------

    async def everything(self) -> AsyncIterator[ChatInDB]:
        """The keys first, so that nothing is passed over while others write; many of them by their first two digits."""
        name = self._link.names.chats
        total = await self._link.count(name, {"id": {"_nnull": True}})
        for start in [f"{number:02x}" for number in range(256)] if total > _KEYS_AT_ONCE else [""]:
            part = {"id": {"_starts_with": start}} if start else {"id": {"_nnull": True}}
            keys = [str(row["id"]) for row in await self._link.every(name, filter=part, fields=["id"], sort=["id"])]
            keys = [key for key in dict.fromkeys(keys) if key.startswith(start)]  # LIKE may ignore case
            for at in range(0, len(keys), 100):
                for row in await all_of([self._chats.ask(key) for key in keys[at : at + 100]]):
                    chat = chat_of(row, self._damage) if row is not None else None
                    if chat is not None:
                        yield chat

    async def reseal(self, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
        await reseal(self._link, chat, messages)

    async def devices(self, user: UserHash) -> Sequence[DeviceInDB]:
        return await self._of_people(user)

    async def _read_devices(self, users: Sequence[UserHash]) -> Sequence[Sequence[DeviceInDB]]:
        """Of everybody who signs in at the same moment: after a restart these are thousands."""
        rows = await self._link.every(
            self._link.names.devices,
            filter={"hashed_user_id": {"_in": list(dict.fromkeys(users))}},
            sort=["first_seen", "id"],
            fields=list(DEVICE_FIELDS),
        )
        found: dict[str, list[DeviceInDB]] = {user: [] for user in users}
        for row in rows:
            user = row.get("hashed_user_id")
            if isinstance(user, str) and user in found and str(row.get("id")).startswith(f"{user}_"):
                found[user].append(device_of(row, self._damage))
        return [found[user] for user in users]

    async def put_device(self, device: DeviceInDB) -> None:
        await self._devices.put(device)

    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        await self._removals.drop_device(user, device)

    async def changed(self) -> AsyncIterator[Elsewhere]:
        async for change in self._changes.follow():
            yield change

    async def met(self) -> AsyncIterator[Elsewhere]:
        async for change in self._changes.met():
            yield change


def _as_told(row: Row, number: int, last: datetime | None, *, order: bool) -> Row:
    """The row as its newest message would have made it."""
    told: dict[str, Any] = dict(row)
    told["messages_version"] = max(number, count_of_cell(row.get("messages_version")) or 0)
    for name in ("last_message_timestamp", "updated_at") if order else ("last_message_timestamp",):
        known = read_time(row.get(name))
        if last is not None and (known is None or last > known):
            told[name] = written(last)
    return told
