"""Everything that the memory cache has of one person, and what it costs."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from plugins.cache.memory_log import Log
from plugins.cache.memory_tokens import Tokens
from sidecar import ChatId, ChatInCache, Deleted, Remembered, Usage, UserHash

_OUTCOMES = 100_000

_packed = attrgetter(*(each.name for each in fields(Remembered)))


class Slot:
    """A chat's place. What is asked at every change is kept beside the record."""

    __slots__ = (
        "chat",
        "draft_enqueued",
        "journalled",
        "pinned",
        "title_enqueued",
        "touched",
        "used",
        "watched",
        "weight",
    )

    def __init__(self, chat: ChatInCache, now: float) -> None:
        self.chat = chat
        self.pinned = chat.pinned
        self.weight = chat.weight
        self.touched = now
        """Last read or written, for its life."""
        self.used = 0
        """Last used, in the person's own count (no clock: it may jump); 0 if never."""
        self.watched = False
        """Whether the lifetimes look at it."""
        self.journalled = False
        """Whether the journal has the record as it is, so that a change of it can be told by its difference."""
        self.draft_enqueued = 0
        """The draft version that was last appended to the outbox."""
        self.title_enqueued = 0


class Person:
    """One person's chats, tombstones, outcomes, log and tokens. Usage is kept at every change and never counted anew."""

    __slots__ = (
        "bytes",
        "chats",
        "draft_chats",
        "evictable",
        "log",
        "outcomes",
        "polled",
        "seen",
        "tokens",
        "tombstones",
        "user",
        "uses",
    )

    def __init__(self, user: UserHash, now: float) -> None:
        self.user = user
        self.chats: dict[ChatId, Slot] = {}
        self.tombstones: OrderedDict[ChatId, tuple[float, Deleted]] = OrderedDict()
        self.outcomes: OrderedDict[str, tuple[float, tuple[Any, ...]]] = OrderedDict()
        self.log = Log()
        self.tokens = Tokens()
        self.draft_chats = 0
        self.bytes = 0
        self.evictable: dict[ChatId, Slot] = {}
        """Clean chats without an entry in the outbox; a few more than `Limits.active` at most times."""
        self.uses = 0
        self.seen = now
        """Last visit of any kind, for the epoch's life."""
        self.polled = now
        """Last look at the log: a device of this person is connected, which keeps its drafts alive."""

    @property
    def usage(self) -> Usage:
        """What counts against the quotas."""
        return Usage(self.draft_chats, self.bytes)

    def put(self, chat: ChatInCache, now: float) -> Slot:
        """The chat is now this. Who puts also keeps `evictable` right."""
        slot = self.chats.get(chat.id)
        if slot is None:
            slot = self.chats[chat.id] = Slot(chat, now)
        else:
            self._uncount(slot)
            slot.chat = chat
            slot.pinned = chat.pinned
            slot.weight = chat.weight
            slot.touched = now
        if slot.pinned:
            self.bytes += slot.weight
            if not chat.messages_version:
                self.draft_chats += 1
        return slot

    def remove(self, chat_id: ChatId) -> None:
        """The chat is not here any more."""
        slot = self.chats.pop(chat_id, None)
        if slot is not None:
            self._uncount(slot)
            self.evictable.pop(chat_id, None)

    def _uncount(self, slot: Slot) -> None:
        if slot.pinned:
            self.bytes -= slot.weight
            if not slot.chat.messages_version:
                self.draft_chats -= 1

    def bury(self, deleted: Deleted, since: float) -> None:
        """The tombstone, in the chat's place."""
        self.remove(deleted.chat_id)
        self.tombstones.pop(deleted.chat_id, None)
        self.tombstones[deleted.chat_id] = (since, deleted)

    def use(self, slot: Slot) -> None:
        """The chat is the most recently used one."""
        self.uses += 1
        slot.used = self.uses

    def surplus(self, active: int) -> Sequence[Slot]:
        """The least recently used of the evictable chats over `active`."""
        over = len(self.evictable) - active
        if over <= 0:
            return ()
        if over == 1:
            return (min(self.evictable.values(), key=_used),)
        return heapq.nsmallest(over, self.evictable.values(), key=_used)

    def remember(self, operation: str, outcome: Remembered, since: float) -> None:
        """An outcome, the newest; the oldest goes where there are more than 100,000."""
        outcomes = self.outcomes
        if outcomes.pop(operation, None) is None and len(outcomes) >= _OUTCOMES:
            outcomes.popitem(last=False)
        # As plain tuples, which the garbage collector soon stops looking at: a day of typing leaves many thousands.
        outcomes[operation] = (since, _packed(outcome))

    def outcome(self, operation: str, oldest: float) -> Remembered | None:
        """The outcome of this operation, unless it was remembered before `oldest`."""
        found = self.outcomes.get(operation)
        return Remembered(*found[1]) if found is not None and found[0] >= oldest else None

    def remembered(self) -> Iterator[tuple[str, float, Remembered]]:
        """Every outcome that is kept, and since when, oldest first."""
        for operation, (since, packed) in self.outcomes.items():
            yield operation, since, Remembered(*packed)

    def tombstone(self, chat_id: ChatId, oldest: float) -> Deleted | None:
        """The chat's tombstone, unless it was put before `oldest`."""
        found = self.tombstones.get(chat_id)
        return found[1] if found is not None and found[0] >= oldest else None

    def forget_old(self, outcomes: float, tombstones: float) -> None:
        """Outcomes and tombstones from before these times go."""
        while self.outcomes and next(iter(self.outcomes.values()))[0] < outcomes:
            self.outcomes.popitem(last=False)
        while self.tombstones and next(iter(self.tombstones.values()))[0] < tombstones:
            self.tombstones.popitem(last=False)

    @property
    def empty(self) -> bool:
        """Whether there is nothing here that anybody could miss."""
        return not (self.chats or self.tombstones or self.outcomes or self.tokens or self.log.epoch)


def _used(slot: Slot) -> int:
    return slot.used
