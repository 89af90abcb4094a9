"""What is written to Directus. Writes that wait at the same moment leave together; each stands or falls alone.

Every one can be done again: what is there already is left, what is newer there stays. Directus has no compare-and-set: rows are
read right before they are written, and the core lets nobody else write them meanwhile (semantics §5).
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from plugins.directus.refusals import DirectusFailed, DirectusRefused
from plugins.persistence.directus_absent import Absent
from plugins.persistence.directus_ahead import Ahead
from plugins.persistence.directus_changes import Changes
from plugins.persistence.directus_link import PART, Link, in_time
from plugins.persistence.directus_merge import STATE_FIELDS, Unit, Write, units_of
from plugins.persistence.directus_rows import Row
from sidecar import Batcher, ChatInDB, MessageInDB, Unavailable, Unstorable

_LANES = 2
"""Batches under way at once: while one reads, another writes. A chat keeps to its lane."""
_LINGER = 0.05
"""Seconds that a lane waits for as many writes as it has just made: the other lane is at work meanwhile."""
_BYTES = 700_000
"""Of one write: Directus takes 1 MB unless it is told otherwise."""
_TRIES = 4
"""Of a write that lost a race against somebody else's."""
_FOLLOW_SECONDS = 1.0
"""Between two looks for rows that are to follow their messages."""
_ID = {"fields": "id"}

Answer = Exception | None
Send = Callable[[Sequence[Unit]], Awaitable[None]]


class Writes:
    """Writes over an open link. Errors: `Unavailable`, `Unstorable`; `DirectusFailed` for what Directus alone fails over."""

    def __init__(self, link: Link, changes: Changes, ahead: Ahead, absent: Absent, deadline: float) -> None:
        """`deadline`: in seconds for one write, the wait for those before it included."""
        self._link = link
        self._changes = changes
        self._deadline = deadline
        self._lanes: list[Batcher[Write, None]] = [Batcher(self._put, linger=_LINGER) for _ in range(_LANES)]
        self._ahead = ahead
        self._absent = absent
        self._following: asyncio.Task[None] | None = None
        self.fault: str | None = None
        """Why the last write failed within Directus; None once one went through again."""
        self._succeeded = 0.0
        self._failed_first: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Rows that follow their messages are written first, where that can be; those that are not stay marked."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._catch_up(everything=True)

    # -- chats and messages --------------------------------------------------------------------------------------------

    async def put(self, chat: ChatInDB, message: MessageInDB | None = None) -> None:
        """Makes the chat's row or raises the parts of it that `chat` has newer; with it the message, in one transaction."""
        if message is not None and (message.hashed_user_id, message.chat_id) != (chat.hashed_user_id, chat.id):
            raise Unstorable(f"message {message.id} does not belong to chat {chat.id}")
        await self._written(Write.of(chat, message))

    async def _written(self, write: Write) -> None:
        lane = self._lanes[zlib.crc32(write.key.encode()) % _LANES]
        await in_time(self._deadline, lane(write))

    async def _put(self, writes: Sequence[Write]) -> Sequence[Answer]:
        answers: dict[int, Answer] = {}
        numbered: list[tuple[int, Write]] = []
        for number, write in enumerate(writes):
            latest = self._ahead.latest(write.key) if write.behind else write
            if latest is None:
                answers[number] = None  # the row was written meanwhile
            else:
                numbered.append((number, latest))
        if numbered:
            await self._store(numbered, answers)
        return [answers[number] for number in range(len(writes))]

    async def _store(self, writes: list[tuple[int, Write]], answers: dict[int, Answer], tries: int = 1) -> None:
        """Stores them and enters what came of each."""
        running = self._running(writes) if tries == 1 else {}
        keys = dict.fromkeys(write.key for _, write in writes if write.key not in running)
        absent = {key for key in keys if self._absent.take(key)} if tries == 1 else set()
        rows = await self._rows(key for key in keys if key not in absent)
        stored = await self._those_stored(writes) if tries > 1 else set()
        states = {**rows, **running}
        for row in rows.values():
            self._changes.note_before_write(row)
        ahead: list[Unit] = []
        units: list[Unit] = []
        for unit in units_of(writes, states, stored, answers):
            (ahead if tries == 1 and self._ahead.may_run(unit) else units).append(unit)
        await self._run_ahead(ahead, states, answers)
        with_messages: list[Unit] = []
        changed: list[Unit] = []
        made: list[Unit] = []
        for unit in units:
            self._take_mark_away(unit, rows.get(unit.key))
            if unit.messages:
                with_messages.append(unit)
            elif not unit.changes or (unit.behind and not unit.exists):
                # Nothing is newer; or the chat was deleted meanwhile, its messages with it.
                self._level(unit, answers)
            else:
                (changed if unit.exists else made).append(unit)
        names = self._link.names
        for group, send in (
            (with_messages, self._poster(names.messages, Unit.message_rows)),
            (changed, self._patch_chats),
            (made, self._poster(names.chats, lambda unit: [unit.changes])),
        ):
            for piece in self._pieces(group):
                await self._send(piece, send, answers, tries, lambda unit: self._level(unit, answers))

    def _level(self, unit: Unit, answers: dict[int, Answer]) -> None:
        self._ahead.level(unit)
        unit.settle(answers, None)

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
        send: Send,
        answers: dict[int, Answer],
        tries: int,
        done: Callable[[Unit], None],
    ) -> None:
        """`done` is told of each that went through."""
        if await self._went_through(units, send, answers, tries):
            self._succeeded = time.monotonic()
            self.fault = None
            for unit in units:
                self._failed_first.pop(unit.key, None)
                done(unit)

    async def _went_through(self, units: list[Unit], send: Send, answers: dict[int, Answer], tries: int) -> bool:
        """Else what came of them instead is entered."""
        try:
            await send(units)
        except Unavailable as error:
            for unit in units:
                unit.settle(answers, error)
        except DirectusRefused as error:
            await self._refused(units, error, answers, tries)
        else:
            return True
        return False

    async def _refused(self, units: list[Unit], error: DirectusRefused, answers: dict[int, Answer], tries: int) -> None:
        """All of these were refused as one. Looked at again they may go through; else by halves, until it is known who is to blame."""
        self._ahead.forget(unit.key for unit in units)
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

    async def _rows(self, keys: Iterable[str]) -> Mapping[str, Row]:
        rows = await self._link.among(self._link.names.chats, keys, fields=list(STATE_FIELDS))
        return {str(row.get("id")): row for row in rows}

    async def _those_stored(self, writes: Sequence[tuple[int, Write]]) -> set[str]:
        """The keys of those messages that are there already."""
        keys = [write.message_key for _, write in writes if write.message_key is not None]
        rows = await self._link.among(self._link.names.messages, keys, fields=["id", "hashed_user_id"])
        # A row of that key which a hand has made somebody else's is not ours: it would never be read as this message.
        return {key for row in rows if (key := str(row.get("id"))).startswith(f"{row['hashed_user_id']}_")}

    def _poster(self, name: str, rows_of: Callable[[Unit], Sequence[Mapping[str, Any]]]) -> Send:
        async def post(units: Sequence[Unit]) -> None:
            rows = [row for unit in units for row in rows_of(unit)]
            await self._link.call("POST", f"/items/{name}", rows, query=_ID)

        return post

    async def _patch_chats(self, units: Sequence[Unit]) -> None:
        rows = [{"id": unit.key, **unit.changes} for unit in units]
        await self._link.call("PATCH", f"/items/{self._link.names.chats}", rows, query=_ID)

    # -- messages that run ahead of their chat's row -------------------------------------------------------------------

    def _running(self, writes: Sequence[tuple[int, Write]]) -> dict[str, Row]:
        """Of the chats that are ahead and stay so, what their rows would say: these need not be read."""
        of_chats: dict[str, list[Write]] = {}
        for _, write in writes:
            of_chats.setdefault(write.key, []).append(write)
        found: dict[str, Row] = {}
        for key, group in of_chats.items():
            state = self._ahead.continued(group)
            if state is not None:
                found[key] = state
        return found

    def _take_mark_away(self, unit: Unit, row: Row | None) -> None:
        """What a hook was given is the newest there is of a chat. What follows may be late, and takes only its own mark away."""
        mark = row.get("ahead") if row is not None else None
        if mark is not None and (mark == self._ahead.mark or not unit.behind):
            unit.changes["ahead"] = None

    async def _run_ahead(self, units: Sequence[Unit], states: Mapping[str, Row], answers: dict[int, Answer]) -> None:
        """The mark first: a row that is marked for nothing does no harm."""

        async def mark(piece: Sequence[Unit]) -> None:
            changes = {"keys": [unit.key for unit in piece], "data": {"ahead": self._ahead.mark}}
            await self._link.call("PATCH", f"/items/{self._link.names.chats}", changes, query=_ID)

        def ran(unit: Unit) -> None:
            self._ahead.ran(unit, states[unit.key])
            unit.settle(answers, None)

        marked = [unit for unit in units if self._ahead.state(unit.key) is not None]
        for piece in self._pieces([unit for unit in units if self._ahead.state(unit.key) is None]):
            if await self._went_through(piece, mark, answers, 1):
                marked += piece
        send = self._poster(self._link.names.messages, Unit.plain_rows)
        for piece in self._pieces(marked):
            await self._send(piece, send, answers, 1, ran)

    async def _follow(self) -> None:
        """Runs for good."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            await self._catch_up()

    async def _catch_up(self, *, everything: bool = False) -> None:
        due = self._ahead.due(everything=everything)
        answers = await asyncio.gather(*(self._written(write) for write in due), return_exceptions=True)
        for write, answer in zip(due, answers, strict=True):
            if isinstance(answer, Unavailable | DirectusRefused):
                self._ahead.put_off(write.key)
            elif isinstance(answer, BaseException):
                self._ahead.forget([write.key])  # the mark stays, and tells whoever reads
