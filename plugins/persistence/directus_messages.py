"""Messages read back from Directus: a chat's newest, pages behind a place, and single ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from plugins.directus.client import AnswerTooLarge
from plugins.persistence.damage import Damage
from plugins.persistence.directus_link import Link, count_of
from plugins.persistence.directus_reads import all_of, rows_behind, rows_of
from plugins.persistence.directus_rows import MESSAGE_FIELDS, Row, chat_key, message_key, message_of
from sidecar import Batcher, ChatId, MessageId, MessageInDB, Page, Unavailable, UserHash

_KEYS = 250
"""Rows that are read by one call."""
_AT_ONCE = 100
"""Chats whose newest messages are looked for together."""
_ROWS = 1_000
"""Messages that are read by one call, where chats are read whole."""

Newest = tuple[Sequence[Row], int]
"""The newest messages of a chat, and how many it has."""


class Messages:
    """Questions of one moment leave together."""

    def __init__(self, link: Link, damage: Damage) -> None:
        self._link = link
        self._damage = damage
        self._found: Batcher[str, Row | None] = Batcher(self._read, most=_KEYS)
        self._newest: Batcher[tuple[str, int], Newest] = Batcher(self._read_newest, most=_AT_ONCE)

    async def page(self, user: UserHash, chat_id: ChatId, before: MessageId | None, limit: int) -> Page[MessageInDB]:
        """Newest first, older than `before`."""
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

    def _of_chat(self, rows: Sequence[Row], user: UserHash, chat_id: ChatId) -> list[MessageInDB]:
        found = [message_of(row, self._damage) for row in rows]
        # A row that a hand moved from another chat opens nowhere.
        return [each for each in found if each is not None and (each.hashed_user_id, each.chat_id) == (user, chat_id)]

    async def find(self, user: UserHash, chat_id: ChatId, ids: Sequence[MessageId]) -> Mapping[MessageId, MessageInDB]:
        """These, where they are there."""
        answers = [self._found.ask(message_key(user, chat_id, each)) for each in dict.fromkeys(ids)]
        rows = [row for row in await all_of(answers) if row is not None]
        return {message.id: message for message in self._of_chat(rows, user, chat_id)}

    async def _read(self, keys: Sequence[str]) -> Sequence[Row | Exception | None]:
        return await rows_of(self._link, self._link.names.messages, MESSAGE_FIELDS, keys)

    async def _older(self, mine: Mapping[str, Any], place: Row | None, key: str, wanted: int) -> Sequence[Row]:
        """Behind this row; None: from the newest on."""
        sequence = place.get("sequence") if place is not None else None
        name = self._link.names.messages
        rows: Sequence[Row] = []
        last = ""
        if place is None or isinstance(sequence, int):
            rows = await rows_behind(self._link, name, MESSAGE_FIELDS, mine, "sequence", (sequence, key), wanted)
        else:
            last = key
        if len(rows) < wanted:
            placeless = await self._link.every(
                name, filter={"_and": [mine, {"sequence": {"_null": True}}]}, sort=["-id"], fields=list(MESSAGE_FIELDS)
            )
            rows = [*rows, *(row for row in placeless if not last or str(row.get("id")) < last)]
        return rows

    async def _read_newest(self, questions: Sequence[tuple[str, int]]) -> Sequence[Newest | Exception]:
        """One call that counts, one for all chats that are small enough to be read whole, and one for each that is not.

        Nested in its chat (`deep`) Directus would read every message of every chat, and cut its answer afterwards.
        """
        wanted: dict[str, int] = {}
        for key, most in questions:
            wanted[key] = max(most, wanted.get(key, 0))
        counts = await self._link.among(
            self._link.names.messages, wanted, by="chat_id", aggregate={"count": "*"}, groupBy=["chat_id"]
        )
        totals = {str(row.get("chat_id")): count_of(row) for row in counts}
        groups: list[list[str]] = []
        large: list[str] = []
        rows = 0
        for key, most in wanted.items():
            total = totals.get(key, 0)
            if total > 2 * most:
                large.append(key)
            elif total:
                if not groups or rows + total > _ROWS:
                    groups.append([])
                    rows = 0
                groups[-1].append(key)
                rows += total
        found: dict[str, Sequence[Row] | Exception] = {}
        for part_found in await asyncio.gather(
            *(self._read_whole(group, wanted) for group in groups),
            *(self._read_end(key, wanted[key]) for key in large),
        ):
            found |= part_found
        return [self._newest_of(key, most, found.get(key, ()), totals.get(key, 0)) for key, most in questions]

    async def _read_whole(
        self, keys: Sequence[str], wanted: Mapping[str, int]
    ) -> Mapping[str, Sequence[Row] | Exception]:
        """All messages of these chats, newest first."""
        try:
            rows = await self._link.every(
                self._link.names.messages,
                filter={"chat_id": {"_in": list(keys)}},
                fields=list(MESSAGE_FIELDS),
                sort=["id"],
            )
        except AnswerTooLarge:
            if len(keys) == 1:
                return await self._read_end(keys[0], wanted[keys[0]])
            half = len(keys) // 2
            return {**await self._read_whole(keys[:half], wanted), **await self._read_whole(keys[half:], wanted)}
        found: dict[str, list[Row]] = {key: [] for key in keys}
        for row in rows:
            chat = row.get("chat_id")
            if isinstance(chat, str) and chat in found:
                found[chat].append(row)
        for each in found.values():
            each.sort(key=_place, reverse=True)
        return found

    async def _read_end(self, key: str, wanted: int) -> Mapping[str, Sequence[Row] | Exception]:
        """The newest messages of a chat."""
        try:
            return {key: await self._older({"chat_id": {"_eq": key}}, None, "", wanted)}
        except AnswerTooLarge as error:
            return {key: error}

    @staticmethod
    def _newest_of(key: str, wanted: int, found: Sequence[Row] | Exception, total: int) -> Newest | Exception:
        if isinstance(found, Exception):
            return found
        if total and not found:
            # Never an empty list where there are rows.
            return Unavailable("persistence", f"Directus gives no messages of chat {key}, which has some")
        return found[:wanted], total


def _place(row: Row) -> tuple[bool, int, str]:
    """In its chat; one that a hand left without a place comes last."""
    sequence = row.get("sequence")
    return isinstance(sequence, int), sequence if isinstance(sequence, int) else 0, str(row.get("id"))
