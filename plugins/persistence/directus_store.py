"""What is read back from Directus. Calls of one moment leave together, so that many people who come at once cost few calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from plugins.directus.client import AnswerTooLarge
from plugins.persistence.damage import Damage
from plugins.persistence.directus_changes import Changes
from plugins.persistence.directus_link import Link, count_of
from plugins.persistence.directus_rows import (
    CHAT_FIELDS,
    DEVICE_FIELDS,
    MESSAGE_FIELDS,
    Row,
    chat_key,
    chat_of,
    device_of,
    message_key,
    message_of,
    written,
)
from plugins.persistence.directus_writes import Writes
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
    Unavailable,
    UserHash,
)

_NEWEST_FIRST = ["-sequence", "-id"]
_KEYS = 250
"""Rows that are read by one call."""
_KEYS_AT_ONCE = 20_000
"""Keys that are read by one call, two or three megabytes."""
_AT_ONCE = 20
"""Chats whose newest messages are read by one call."""

Newest = tuple[Sequence[Row], int]
"""The newest messages of a chat, and how many it has."""


class DirectusStore(Store):
    """The store behind an open link."""

    def __init__(self, link: Link, writes: Writes, changes: Changes, damage: Damage) -> None:
        self._link = link
        self._writes = writes
        self._changes = changes
        self._damage = damage
        self._chats: Batcher[str, Row | None] = Batcher(self._read_chats, most=_KEYS)
        self._found: Batcher[str, Row | None] = Batcher(self._read_messages, most=_KEYS)
        self._of_people: Batcher[UserHash, Sequence[DeviceInDB]] = Batcher(self._read_devices, most=_KEYS)
        self._newest: Batcher[tuple[str, int], Newest] = Batcher(self._read_newest, most=_AT_ONCE)

    # -- chats ---------------------------------------------------------------------------------------------------------

    async def known(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, ChatInDB]:
        if not ids:
            await self._link.prove()
        answers = [self._chats.ask(chat_key(user, chat_id)) for chat_id in dict.fromkeys(ids)]
        found = [chat_of(row, self._damage) for row in await _all(answers) if row is not None]
        return {chat.id: chat for chat in found if chat is not None}

    async def chats(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        """The person's chats, newest first by (updated_at, id); `total` counts all of them. Rows without a time come last."""
        name, mine = self._link.names.chats, {"hashed_user_id": {"_eq": user}}
        wanted = max(limit, 0) + 1
        total = await self._link.count(name, mine)
        rows: list[Row] = []
        if before is None or written(before[0]) != _NEVER:
            place = (None, "") if before is None else (written(before[0]), chat_key(user, before[1]))
            rows = await self._behind(name, mine, "updated_at", ["-updated_at", "-id"], place, wanted)
        dated = len(rows)
        if dated < wanted and (before is not None or dated < total):
            # Those that a hand left without a time: what they are read with is older than everything.
            last = chat_key(user, before[1]) if before is not None and written(before[0]) == _NEVER else ""
            undated = await self._link.every(
                name, filter={"_and": [mine, {"updated_at": {"_null": True}}]}, sort=["-id"], fields=list(CHAT_FIELDS)
            )
            rows += [row for row in undated if not last or str(row.get("id")) < last]
        found = [chat_of(row, self._damage) for row in rows[:limit]]
        return Page([chat for chat in found if chat is not None], len(rows) > limit, total)

    async def _behind(
        self,
        name: str,
        mine: Mapping[str, Any],
        field: str,
        sort: Sequence[str],
        place: tuple[str | int | None, str],
        wanted: int,
    ) -> list[Row]:
        """So many rows that follow the place (value of the field, key) in this order, newest first.

        Directus compares no strings, so the rows that share the place's value are read and passed over, up to the place.
        """
        value, key = place
        fields = list(CHAT_FIELDS if field == "updated_at" else MESSAGE_FIELDS)
        bound = {"_nnull": True} if value is None else {"_lte": value}
        condition = {"_and": [mine, {field: bound}]}
        passed: list[Row] = []
        rows: list[Row] = []
        offset = 0
        while len(rows) + (len(_after(passed, key)) if value is not None else 0) < wanted:
            step = min(wanted + len(passed), self._link.most_read)
            page = await self._link.search(
                name, filter=condition, sort=list(sort), fields=fields, limit=step, offset=offset
            )
            offset += len(page)
            if value is None:
                rows += page
            else:
                shared = [row for row in page if _same(row.get(field), value)]
                passed += shared
                rows += page[len(shared) :]
            if len(page) < step:
                break
        return ([*_after(passed, key), *rows] if value is not None else rows)[:wanted]

    async def _read_chats(self, keys: Sequence[str]) -> Sequence[Row | Exception | None]:
        return await self._by_key(self._link.names.chats, CHAT_FIELDS, keys)

    async def _read_messages(self, keys: Sequence[str]) -> Sequence[Row | Exception | None]:
        return await self._by_key(self._link.names.messages, MESSAGE_FIELDS, keys)

    async def _by_key(self, name: str, fields: Sequence[str], keys: Sequence[str]) -> Sequence[Row | Exception | None]:
        wanted = list(dict.fromkeys(keys))
        if len(wanted) > self._link.most_read:
            half = len(keys) // 2
            return [*await self._by_key(name, fields, keys[:half]), *await self._by_key(name, fields, keys[half:])]
        try:
            rows = await self._link.search(
                name, filter={"id": {"_in": wanted}}, fields=list(fields), limit=max(1, len(wanted))
            )
        except AnswerTooLarge as error:
            if len(wanted) == 1:
                return [error] * len(keys)
            half = len(keys) // 2
            return [
                *await self._by_key(name, fields, keys[:half]),
                *await self._by_key(name, fields, keys[half:]),
            ]
        found = {row.get("id"): row for row in rows}
        return [found.get(key) for key in keys]

    # -- messages ------------------------------------------------------------------------------------------------------

    async def messages(
        self, user: UserHash, chat_id: ChatId, before: MessageId | None, limit: int
    ) -> Page[MessageInDB]:
        limit = max(limit, 0)
        rows: Sequence[Row]
        mine = {"chat_id": {"_eq": chat_key(user, chat_id)}}
        if before is None and limit < self._link.most_read:
            rows, total = await self._newest.ask((chat_key(user, chat_id), limit + 1))
        elif before is None:
            total = await self._link.count(self._link.names.messages, mine)
            rows = await self._older(mine, None, "", limit + 1)
        else:
            key = message_key(user, chat_id, before)
            place = await self._found.ask(key)
            total = await self._link.count(self._link.names.messages, mine)
            if place is None:
                return Page((), False, total)
            rows = await self._older(mine, place, key, limit + 1)
        return Page(self._of_chat(rows[:limit], user, chat_id), len(rows) > limit, total)

    async def _older(self, mine: Mapping[str, Any], place: Row | None, key: str, wanted: int) -> Sequence[Row]:
        """Behind this row; None: from the newest on."""
        sequence = place.get("sequence") if place is not None else None
        name = self._link.names.messages
        rows: Sequence[Row] = []
        last = ""
        if place is None or isinstance(sequence, int):
            rows = await self._behind(name, mine, "sequence", _NEWEST_FIRST, (sequence, key), wanted)
        else:
            last = key
        if len(rows) < wanted:
            placeless = await self._link.every(
                name, filter={"_and": [mine, {"sequence": {"_null": True}}]}, sort=["-id"], fields=list(MESSAGE_FIELDS)
            )
            rows = [*rows, *(row for row in placeless if not last or str(row.get("id")) < last)]
        return rows

    async def _read_newest(self, questions: Sequence[tuple[str, int]]) -> Sequence[Newest | Exception]:
        """One call for the messages of all these chats, and one that counts them."""
        keys = list(dict.fromkeys(key for key, _ in questions))
        most = max(wanted for _, wanted in questions)
        if len(keys) > self._link.most_read:
            half = len(questions) // 2
            return [*await self._read_newest(questions[:half]), *await self._read_newest(questions[half:])]
        names = self._link.names
        condition = {"id": {"_in": keys}}
        try:
            rows = await self._link.search(
                names.chats,
                filter=condition,
                fields=["id", *(f"messages.{name}" for name in MESSAGE_FIELDS)],
                deep={"messages": {"_sort": _NEWEST_FIRST, "_limit": most}},
                limit=len(keys),
            )
        except AnswerTooLarge as error:
            if len(questions) == 1:
                return [error]
            half = len(questions) // 2
            return [*await self._read_newest(questions[:half]), *await self._read_newest(questions[half:])]
        counts = await self._link.search(
            names.messages,
            filter={"chat_id": condition["id"]},
            aggregate={"count": "*"},
            groupBy=["chat_id"],
            limit=len(keys),
        )
        totals = {row.get("chat_id"): count_of(row) for row in counts}
        found = {row.get("id"): row.get("messages") for row in rows}
        answers: list[Newest | Exception] = []
        for key, wanted in questions:
            messages = found.get(key)
            mine = [row for row in messages if isinstance(row, dict)] if isinstance(messages, list) else []
            if not mine and totals.get(key):
                # Never an empty list where there are rows.
                answers.append(Unavailable("persistence", "Directus gives no messages of a chat that has some"))
            else:
                answers.append((mine[:wanted], totals.get(key, 0)))
        return answers

    def _of_chat(self, rows: Sequence[Row], user: UserHash, chat_id: ChatId) -> list[MessageInDB]:
        found = [message_of(row, self._damage) for row in rows]
        # A row that a hand moved from another chat opens nowhere.
        return [each for each in found if each is not None and (each.hashed_user_id, each.chat_id) == (user, chat_id)]

    async def find(self, user: UserHash, chat_id: ChatId, ids: Sequence[MessageId]) -> Mapping[MessageId, MessageInDB]:
        answers = [self._found.ask(message_key(user, chat_id, each)) for each in dict.fromkeys(ids)]
        rows = [row for row in await _all(answers) if row is not None]
        return {message.id: message for message in self._of_chat(rows, user, chat_id)}

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
                for row in await _all([self._chats.ask(key) for key in keys[at : at + 100]]):
                    chat = chat_of(row, self._damage) if row is not None else None
                    if chat is not None:
                        yield chat

    async def reseal(self, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
        await self._writes.reseal(chat, messages)

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
            if user in found and str(row.get("id")).startswith(f"{user}_"):
                found[user].append(device_of(row, self._damage))
        return [found[user] for user in users]

    async def put_device(self, device: DeviceInDB) -> None:
        await self._writes.put_device(device)

    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        await self._writes.drop_device(user, device)

    async def changed(self) -> AsyncIterator[Elsewhere]:
        async for change in self._changes.follow():
            yield change

    async def met(self) -> AsyncIterator[Elsewhere]:
        async for change in self._changes.met():
            yield change


_NEVER = "1970-01-01T00:00:00.000Z"
"""The time with which a row without one is read."""


async def _all(answers: Sequence[Any]) -> Sequence[Row | None]:
    """Awaits them all, so that none is left with an error that nobody took; raises the first."""
    found: list[Row | None] = []
    failure: BaseException | None = None
    for answer in answers:
        try:
            found.append(await answer)
        except Exception as error:  # noqa: BLE001  # raised below, once the others are heard
            failure = failure or error
    if failure is not None:
        raise failure
    return found


def _same(value: object, other: str | int) -> bool:
    if isinstance(other, int):
        return value == other
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) == datetime.fromisoformat(other)
    except ValueError:
        return False


def _after(rows: Sequence[Row], key: str) -> Sequence[Row]:
    """Those behind the row of this key; where it is not among them any more, those whose key is lower."""
    place = next((number for number, row in enumerate(rows) if row.get("id") == key), None)
    if place is not None:
        return rows[place + 1 :]
    return [row for row in rows if str(row.get("id")) < key]
