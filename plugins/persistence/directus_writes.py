"""What is written to Directus. Writes that wait at the same moment leave together; each stands or falls alone.

Every one can be done again: what is there already is left, what is newer there stays. Directus has no compare-and-set: rows are
read right before they are written, and the core lets nobody else write them meanwhile (semantics §5).
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from plugins.directus.refusals import DirectusFailed, DirectusRefused
from plugins.persistence.directus_changes import Changes
from plugins.persistence.directus_link import PART, Link
from plugins.persistence.directus_merge import STATE_FIELDS, Unit, Write, units_of
from plugins.persistence.directus_rows import (
    Row,
    chat_key,
    device_key,
    device_row,
    message_key,
    sealed,
)
from sidecar import Batcher, ChatInDB, Deleted, DeviceId, DeviceInDB, MessageInDB, Unavailable, Unstorable, UserHash

T = TypeVar("T")

_LANES = 2
"""Batches under way at once: while one reads, another writes. A chat keeps to its lane."""
_BYTES = 700_000
"""Of one write: Directus takes 1 MB unless it is told otherwise."""
_TRIES = 4
"""Of a write that lost a race against somebody else's."""
_ID = {"fields": "id"}

Answer = Exception | None


class Writes:
    """Writes over an open link. Errors: `Unavailable`, `Unstorable`; `DirectusFailed` for what Directus alone fails over."""

    def __init__(self, link: Link, changes: Changes, deadline: float) -> None:
        """`deadline`: in seconds for one write, the wait for those before it included."""
        self._link = link
        self._changes = changes
        self._deadline = deadline
        self._lanes: list[Batcher[Write, None]] = [Batcher(self._put) for _ in range(_LANES)]
        self._deletions: Batcher[str, None] = Batcher(self._delete)
        self._devices: Batcher[DeviceInDB, None] = Batcher(self._put_devices)
        self._most_deleted = -1
        """By one call; all of them, unless Directus was found to refuse so many."""
        self.fault: str | None = None
        """Why the last write failed within Directus; None once one went through again."""
        self._succeeded = 0.0
        self._failed_first: dict[str, float] = {}

    # -- chats and messages --------------------------------------------------------------------------------------------

    async def put(self, chat: ChatInDB, message: MessageInDB | None = None) -> None:
        """Makes the chat's row or raises the parts of it that `chat` has newer; with it the message, in one transaction."""
        if message is not None and (message.hashed_user_id, message.chat_id) != (chat.hashed_user_id, chat.id):
            raise Unstorable(f"message {message.id} does not belong to chat {chat.id}")
        write = Write.of(chat, message)
        lane = self._lanes[zlib.crc32(write.key.encode()) % _LANES]
        await self._in_time(lane(write))

    async def _in_time(self, answer: Awaitable[T]) -> T:
        # Within the hook's own timeout, which would count as a try.
        try:
            async with asyncio.timeout(self._deadline):
                return await answer
        except TimeoutError:
            raise Unavailable(PART, "Directus is too slow for what waits to be written") from None

    async def _put(self, writes: Sequence[Write]) -> Sequence[Answer]:
        answers: dict[int, Answer] = {}
        await self._store(list(enumerate(writes)), answers)
        return [answers[number] for number in range(len(writes))]

    async def _store(self, writes: list[tuple[int, Write]], answers: dict[int, Answer], tries: int = 1) -> None:
        """Stores them and enters what came of each."""
        rows = await self._rows([write.key for _, write in writes])
        stored: set[str] = set()
        if tries > 1:
            stored = await self._those_stored(writes)
        units = units_of(writes, rows, stored, answers)
        for row in rows.values():
            self._changes.note_before_write(row)
        with_messages = [unit for unit in units if unit.messages]
        without = [unit for unit in units if not unit.messages]
        for unit in without:
            if not unit.changes:
                unit.settle(answers, None)
        names = self._link.names
        groups = (
            (with_messages, self._post_messages),
            ([unit for unit in without if unit.exists and unit.changes], self._patcher(names.chats)),
            ([unit for unit in without if not unit.exists and unit.changes], self._poster(names.chats)),
        )
        for group, send in groups:
            for piece in self._pieces(group):
                await self._send(piece, send, answers, tries)

    def _pieces(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """As large as Directus takes them."""
        pieces: list[list[Unit]] = []
        rows = size = 0
        for unit in units:
            if not pieces or rows + unit.rows > self._link.most_rows or size + unit.bytes > _BYTES:
                pieces.append([])
                rows = size = 0
            pieces[-1].append(unit)
            rows += unit.rows
            size += unit.bytes
        return pieces

    async def _send(
        self,
        units: list[Unit],
        send: Callable[[Sequence[Unit]], Awaitable[None]],
        answers: dict[int, Answer],
        tries: int,
    ) -> None:
        try:
            await send(units)
        except Unavailable as error:
            for unit in units:
                unit.settle(answers, error)
        except DirectusRefused as error:
            await self._refused(units, error, answers, tries)
        else:
            self._succeeded = time.monotonic()
            self.fault = None
            for unit in units:
                self._failed_first.pop(unit.key, None)
                unit.settle(answers, None)

    async def _refused(self, units: list[Unit], error: DirectusRefused, answers: dict[int, Answer], tries: int) -> None:
        """All of these were refused as one. Looked at again they may go through; else by halves, until it is known who is to blame."""
        writes = [write for unit in units for write in unit.writes]
        if tries < _TRIES and error.code in ("RECORD_NOT_UNIQUE", "INVALID_FOREIGN_KEY", "FORBIDDEN"):
            # Stored before (its answer was lost), or made or deleted by others meanwhile.
            await self._again(writes, answers, tries + (1 if len(writes) == 1 else _TRIES - 1))
            return
        if len(writes) > 1:
            half = len(writes) // 2
            for part in (writes[:half], writes[half:]):
                await self._again(part, answers, 2 if len(part) == 1 else _TRIES)
            if error.code == "INVALID_PAYLOAD" and not any(answers.get(number) for number, _ in writes):
                # Nothing was wrong with any of them: they were too many at once (`MAX_BATCH_MUTATION`).
                self._link.most_rows = max(1, min(self._link.most_rows, sum(unit.rows for unit in units) // 2))
            return
        (number, write) = writes[0]
        answers[number] = self._verdict(write, error)

    async def _again(self, writes: list[tuple[int, Write]], answers: dict[int, Answer], tries: int) -> None:
        try:
            await self._store(writes, answers, tries)
        except (Unavailable, DirectusRefused) as error:
            for number, _ in writes:
                answers.setdefault(number, error)

    def _verdict(self, write: Write, error: DirectusRefused) -> Exception:
        what = f"message {write.message.id}" if write.message is not None else f"chat {write.chat.id}"
        if not isinstance(error, DirectusFailed):
            if error.code == "RECORD_NOT_UNIQUE":
                return Unstorable(f"{what}: the store has another chat's message of that id")
            if error.code == "FORBIDDEN":
                return Unstorable(f"{what}: Directus forbids it to be written: run sidecar doctor")
            return Unstorable(f"{what}: {error}")
        # Over this row, or over everything, as with a full disk? Over this row only if others went through since.
        now = time.monotonic()
        if len(self._failed_first) > 10_000:
            self._failed_first.clear()
        if self._succeeded > self._failed_first.setdefault(write.key, now):
            return error
        self.fault = f"Directus fails at writing ({error.code}): look at its log, its database and the disk"
        return Unavailable(PART, self.fault)

    async def _rows(self, keys: Sequence[str]) -> Mapping[str, Row]:
        wanted = list(dict.fromkeys(keys))
        rows: dict[str, Row] = {}
        for at in range(0, len(wanted), self._link.most_read):
            part = wanted[at : at + self._link.most_read]
            found = await self._link.search(
                self._link.names.chats, filter={"id": {"_in": part}}, fields=list(STATE_FIELDS), limit=len(part)
            )
            rows |= {str(row.get("id")): row for row in found}
        return rows

    async def _those_stored(self, writes: Sequence[tuple[int, Write]]) -> set[str]:
        """The keys of those messages that are there already."""
        keys = [write.message_key for _, write in writes if write.message_key is not None]
        found: set[str] = set()
        for at in range(0, len(keys), self._link.most_read):
            part = keys[at : at + self._link.most_read]
            fields = ["id", "hashed_user_id"]
            rows = await self._link.search(
                self._link.names.messages, filter={"id": {"_in": part}}, fields=fields, limit=len(part)
            )
            # A row of that key which a hand has made somebody else's is not ours: it would never be read as this message.
            found |= {key for row in rows if (key := str(row.get("id"))).startswith(f"{row['hashed_user_id']}_")}
        return found

    async def _post_messages(self, units: Sequence[Unit]) -> None:
        rows = [row for unit in units for row in unit.message_rows()]
        await self._link.call("POST", f"/items/{self._link.names.messages}", rows, query=_ID)

    def _patcher(self, name: str) -> Callable[[Sequence[Unit]], Awaitable[None]]:
        async def patch(units: Sequence[Unit]) -> None:
            rows = [{"id": unit.key, **unit.changes} for unit in units]
            await self._link.call("PATCH", f"/items/{name}", rows, query=_ID)

        return patch

    def _poster(self, name: str) -> Callable[[Sequence[Unit]], Awaitable[None]]:
        async def post(units: Sequence[Unit]) -> None:
            await self._link.call("POST", f"/items/{name}", [unit.changes for unit in units], query=_ID)

        return post

    # -- the end of chats and persons ----------------------------------------------------------------------------------

    async def delete(self, chat: Deleted) -> None:
        """Removes chat and messages."""
        await self._in_time(self._deletions(chat_key(chat.user, chat.chat_id)))

    async def _delete(self, keys: Sequence[str]) -> Sequence[None]:
        self._changes.note_deletion(keys)
        names, chosen = self._link.names, {"_in": list(dict.fromkeys(keys))}
        # The messages first: where the relation was made without its cascade, a chat with messages could not go.
        await self._delete_all(names.messages, {"chat_id": chosen})
        await self._delete_all(names.chats, {"id": chosen})
        return [None] * len(keys)

    async def erase(self, user: UserHash) -> None:
        """Removes every row of this person, those too in which a hand has changed the owner."""
        self._changes.note_deletion((), user)
        names = self._link.names
        for name in (names.messages, names.chats, names.devices):
            await self._delete_all(
                name, {"_or": [{"hashed_user_id": {"_eq": user}}, {"id": {"_starts_with": f"{user}_"}}]}
            )

    async def _delete_all(self, name: str, condition: Mapping[str, Any]) -> None:
        while True:
            most = self._most_deleted
            try:
                await self._link.call("DELETE", f"/items/{name}", {"query": {"filter": condition, "limit": most}})
            except DirectusFailed as error:
                raise Unavailable(PART, f"Directus fails at deleting ({error.code}): look at its log") from None
            except DirectusRefused as error:
                if error.code != "INVALID_PAYLOAD" or most == 1:
                    raise Unstorable(f"Directus does not let rows of {name} be deleted ({error.code})") from None
                self._most_deleted = self._link.most_rows if most == -1 else most // 2  # `MAX_BATCH_MUTATION`
                continue
            if (most == -1 and not self._link.limited) or not await self._link.search(
                name, filter=condition, fields=["id"], limit=1
            ):
                return

    # -- new bytes, devices --------------------------------------------------------------------------------------------

    async def reseal(self, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
        """New bytes for the same revisions. A null never replaces a value, and no row is made."""
        for message in messages:
            if (message.hashed_user_id, message.chat_id) != (chat.hashed_user_id, chat.id):
                raise Unstorable(f"message {message.id} does not belong to chat {chat.id}")
        names, key = self._link.names, chat_key(chat.hashed_user_id, chat.id)
        revision = ("version", "draft_op", "title_version", "title_op")
        rows = await self._link.search(
            names.chats, filter={"id": {"_eq": key}}, fields=["id", "title", "draft", *revision], limit=1
        )
        if not rows or any(rows[0].get(name) != getattr(chat, name) for name in revision):
            changes = {}
        else:
            new = {"title": sealed(chat.title), "draft": sealed(chat.draft)}
            changes = {
                name: value for name, value in new.items() if value is not None and rows[0].get(name) is not None
            }
        contents = {message_key(each.hashed_user_id, each.chat_id, each.id): each.content for each in messages}
        there = (
            await self._link.every(names.messages, filter={"id": {"_in": list(contents)}}, fields=["id"])
            if contents
            else []
        )
        if changes:
            await self._patch(names.chats, [{"id": key, **changes}])
        await self._patch(
            names.messages, [{"id": row["id"], "content": sealed(contents[str(row["id"])])} for row in there]
        )

    async def put_device(self, device: DeviceInDB) -> None:
        """Makes or replaces a device."""
        await self._in_time(self._devices(device))

    async def _put_devices(self, devices: Sequence[DeviceInDB]) -> Sequence[None]:
        name = self._link.names.devices
        rows = {str(row["id"]): row for row in map(device_row, devices)}
        for _ in range(_TRIES):
            found = await self._link.search(name, filter={"id": {"_in": list(rows)}}, fields=["id"], limit=len(rows))
            there = {str(row.get("id")) for row in found}
            try:
                if new := [row for key, row in rows.items() if key not in there]:
                    await self._link.call("POST", f"/items/{name}", new, query=_ID)
                await self._patch(name, [row for key, row in rows.items() if key in there])
            except DirectusRefused as error:
                if error.code not in ("RECORD_NOT_UNIQUE", "FORBIDDEN"):
                    raise Unstorable(f"a device cannot be written: {error}") from None
                continue  # made or dropped by others meanwhile
            return [None] * len(devices)
        raise Unstorable("a device cannot be written: Directus forbids it: run sidecar doctor")

    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        """Removes a device; nothing if it is not there."""
        await self._in_time(self._delete_all(self._link.names.devices, {"id": {"_eq": device_key(user, device)}}))

    async def _patch(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        for at in range(0, len(rows), self._link.most_rows):
            await self._link.call("PATCH", f"/items/{name}", rows[at : at + self._link.most_rows], query=_ID)
