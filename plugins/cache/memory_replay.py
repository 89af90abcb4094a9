"""Reads back what `journal_line` wrote: the state as it was when the last record was finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from plugins.cache.journal_line import CHAT_FIELDS, ITEM_FIELDS, MESSAGE_FIELDS, REMEMBERED_FIELDS
from plugins.cache.journal_reader import JournalRecord
from plugins.cache.memory_person import Person
from plugins.cache.memory_queue import Queue
from plugins.cache.memory_state import State
from sidecar import (
    ChatInCache,
    Deleted,
    Entry,
    Item,
    MessageInCache,
    Remembered,
    Replaced,
    Sealed,
    StartRefused,
    UserHash,
)

_TIMES = frozenset(("at", "created_at", "updated_at", "title_at", "draft_at", "last_message_timestamp"))


class Replay:
    """Carries out the records of a journal on a state that is still empty. `finish` comes after the last of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._now = state.clock()
        self._blobs: Sequence[bytes] = ()
        self._columns: Mapping[str, Sequence[str]] = {
            "chat": CHAT_FIELDS,
            "message": MESSAGE_FIELDS,
            "outcome": REMEMBERED_FIELDS,
            "item": ITEM_FIELDS,
        }
        self.fence = 0
        """Above every fence of earlier runs."""
        self.records = 0
        self._effects: Mapping[str, Callable[..., None]] = {
            "reset": self._reset,
            "epoch": self._epoch,
            "item": self._item,
            "chat": self._chat,
            "gone": self._gone,
            "tombstone": self._tombstone,
            "outcome": self._outcome,
            "forgotten": self._forgotten,
            "entry": self._entry,
            "passed": self._passed,
            "tried": self._tried,
            "parked": self._parked,
            "joined": self._joined,
            "left": self._left,
        }

    def apply(self, record: JournalRecord) -> None:
        """One record. Raises `StartRefused` where it says something that this release does not know."""
        header = record.header
        self._blobs = record.blobs
        self.records += 1
        try:
            if "format" in header:
                self._generation(header)
                return
            self._state.epoch_time = max(self._state.epoch_time, int(header["at"] * 1000))
            user = header["user"]
            for name, *values in header["do"]:
                self._effects[name](self._person(user) if user is not None else None, *values)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise StartRefused(
                "cache",
                f"record {self.records} of the journal is whole but says what this release does not know "
                f"({type(error).__name__}); it was written by another release: start that one, or move the files "
                "journal.* aside, then the devices bring their drafts back",
            ) from error

    def _generation(self, header: Mapping[str, Any]) -> None:
        self._columns = {name: header[name] for name in self._columns}
        self._state.entry = max(self._state.entry, header["entry"])
        self.fence = max(self.fence, header["fence"])
        self._joined(None, header["joined"])

    def _person(self, user: UserHash) -> Person:
        person = self._state.persons.get(user)
        if person is None:
            person = self._state.persons[user] = Person(user, self._now)
        return person

    # -- effects -------------------------------------------------------------------------------------------------------

    def _reset(self, person: Person) -> None:
        for queue in self._state.queues.values():
            for entry in queue.of_user(person.user):
                queue.remove(entry.id)
        self._state.persons[person.user] = Person(person.user, self._now)

    def _epoch(self, person: Person, epoch: str, base: int, base_tag: str) -> None:
        person.log.begin(epoch, base, base_tag)

    def _item(self, person: Person, since: float, values: Sequence[Any]) -> None:
        person.log.append(since, Item(**dict(zip(self._columns["item"], values, strict=True))))

    def _chat(
        self,
        person: Person,
        values: Sequence[Any],
        title: int | None,
        draft: int | None,
        whole: bool,
        count: int,
        put: Sequence[Sequence[Any]],
        status: Sequence[tuple[str, Any]],
        gone: Sequence[str],
    ) -> None:
        columns = self._timed(self._columns["chat"], values)
        chat_id = columns["id"]
        chat = ChatInCache(user=person.user, title=self._sealed(title), draft=self._sealed(draft), **columns)
        before = person.chats.get(chat_id)
        messages: dict[str, MessageInCache] = {}
        if not whole and before is not None:
            messages = {message.id: message for message in before.chat.messages}
        for message_id in gone:
            messages.pop(message_id, None)
        for message_id, now in status:
            if message_id in messages:
                messages[message_id] = messages[message_id].model_copy(update={"status": now})
        for each in put:
            message = self._message(chat, each)
            messages[message.id] = message
        if messages or count:
            # What is missing was in the store when it was written: it is read from there again.
            chat = chat.with_messages(messages.values(), len(messages), chat.older or len(messages) != count)
        person.tombstones.pop(chat_id, None)
        person.put(chat, self._now).journalled = True

    def _message(self, chat: ChatInCache, values: Sequence[Any]) -> MessageInCache:
        columns = self._timed(self._columns["message"], values[:-1])
        content = self._sealed(values[-1])
        return MessageInCache.model_construct(chat_id=chat.id, hashed_user_id=chat.user, content=content, **columns)

    def _gone(self, person: Person, chat_id: Any) -> None:
        person.remove(chat_id)

    def _tombstone(self, person: Person, chat_id: Any, at: str, since: float) -> None:
        self._state.bury(person, Deleted(person.user, chat_id, datetime.fromisoformat(at)), since)

    def _outcome(
        self,
        person: Person,
        operation: str,
        since: float,
        digest: str,
        values: Sequence[Any],
        replaced: Sequence[Any] | None,
    ) -> None:
        columns = self._timed(self._columns["outcome"], values)
        texts = None
        if replaced is not None:
            draft, version, op, title, title_version, title_op = replaced
            texts = Replaced(self._sealed(draft), version, op, self._sealed(title), title_version, title_op)
        person.remember(operation, Remembered(digest=bytes.fromhex(digest), replaced=texts, **columns), since)

    def _forgotten(self, person: Person, operation: str) -> None:
        person.outcomes.pop(operation, None)

    def _entry(
        self,
        _: Person | None,
        entry_id: str,
        user: str,
        chat_id: Any,
        kind: Any,
        message_id: Any,
        at: str,
        waiting: Sequence[tuple[str, int]],
        parked: Sequence[str],
    ) -> None:
        self._state.entry = max(self._state.entry, int(entry_id))
        when = datetime.fromisoformat(at)
        for name, tries in waiting:
            self._place(name, Entry(entry_id, UserHash(user), chat_id, kind, message_id, when, tries), False)
        for name in parked:
            self._place(name, Entry(entry_id, UserHash(user), chat_id, kind, message_id, when), True)

    def _place(self, name: str, entry: Entry, parked: bool) -> None:
        queue = self._state.queues.get(name)
        if queue is not None:
            queue.remove(entry.id)
            queue.add(entry, parked)

    def _passed(self, _: Person | None, plugin: str, ids: Sequence[str]) -> None:
        queue = self._state.queues.get(plugin)
        if queue is not None:
            for entry_id in ids:
                queue.remove(entry_id)

    def _tried(self, _: Person | None, plugin: str, tries: Sequence[tuple[str, int]]) -> None:
        queue = self._state.queues.get(plugin)
        if queue is not None:
            parked = [entry_id for entry_id, _ in tries if queue.is_parked(entry_id)]
            if parked:
                queue.replay(parked)
            for entry_id, number in tries:
                queue.set_tries(entry_id, number)

    def _parked(self, _: Person | None, plugin: str, ids: Sequence[str]) -> None:
        queue = self._state.queues.get(plugin)
        if queue is not None:
            for entry_id in ids:
                queue.park(entry_id)

    def _joined(self, _: Person | None, plugins: Sequence[str]) -> None:
        for name in plugins:
            self._state.queues.setdefault(name, Queue())

    def _left(self, _: Person | None, plugin: str) -> None:
        self._state.queues.pop(plugin, None)

    # -- values --------------------------------------------------------------------------------------------------------

    def _sealed(self, number: int | None) -> Sealed | None:
        return None if number is None else Sealed(self._blobs[number])

    def _timed(self, columns: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
        found = dict(zip(columns, values, strict=True))
        for name in _TIMES & found.keys():
            if found[name] is not None:
                found[name] = datetime.fromisoformat(cast(str, found[name]))
        return found

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Makes the state fit for use: clean chats go, since the store may have moved on while nothing ran here."""
        state = self._state
        for queue in state.queues.values():
            queue.sort()
        for person in list(state.persons.values()):
            for chat_id, slot in list(person.chats.items()):
                chat = slot.chat
                if not slot.pinned:
                    person.remove(chat_id)
                    continue
                if chat.version > chat.stored_version or chat.title_version > chat.stored_title_version:
                    # Whether its draft was appended before is not known; once more does no harm.
                    state.dues.mark(person.user, chat_id, self._now, self._now)
            if person.empty:
                del state.persons[person.user]
            else:
                state.adopt(person, self._now)
