"""The whole state of the memory cache: what its chats and its outbox share, and the one way by which it changes.

Every change goes the same way, without an await in between: what it will do is written to the journal, and then done.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Sequence

from plugins.cache.journal import Journal
from plugins.cache.journal_line import Line
from plugins.cache.memory_dues import Dues
from plugins.cache.memory_person import Person, Slot
from plugins.cache.memory_queue import Key, Queue
from plugins.cache.memory_watch import Watchers
from sidecar import BEGINNING_TAG, ChatId, ChatInCache, Deleted, Entry, Limits, Unavailable, UserHash, epoch_of

_LOOK_AGAIN = 3600.0  # how often an idle person is visited to see what is over, in seconds
_RETRY = 60.0


class State:
    """Persons, outbox and lifetimes of one process. `clock` gives seconds since 1970; no order depends on it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.limits = Limits()
        self.persons: dict[UserHash, Person] = {}
        self.queues: dict[str, Queue] = {}
        self.dues = Dues()
        self.watchers = Watchers()
        self.journal: Journal | None = None
        """None: nothing is written down."""
        self.closed = False
        self.entry = int(clock() * 1e6)
        """Number of the last outbox entry; begins at the clock, so that none comes twice even if a journal is lost."""
        self.epoch_time = 0
        """The latest time at which an epoch was begun, by this clock, in milliseconds."""
        self._lifetimes: list[tuple[float, int, UserHash, ChatId | None]] = []
        self._number = 0

    # -- access --------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The time, for a step that begins now. Raises `Unavailable` once the cache was closed."""
        if self.closed:
            raise Unavailable("cache", "it is closed")
        return self.clock()

    def person(self, user: UserHash, now: float) -> Person:
        """This person, with an epoch: whoever finds it missing makes it."""
        person = self.persons.get(user)
        if person is None:
            person = Person(user, now)
        if person.log.epoch is None or now - person.seen > self.limits.events_ttl:
            self.begin_epoch(person, now)
        if user not in self.persons:
            self.persons[user] = person
            self._look(now + _LOOK_AGAIN, user, None)
        person.seen = now
        return person

    def adopt(self, person: Person, now: float) -> None:
        """A person that was read back: from now on the lifetimes look there."""
        for slot in person.chats.values():
            self.settle_place(person, slot, now)
        self._look(now + _LOOK_AGAIN, person.user, None)

    def new_epoch(self, now: float, *after: str | None) -> str:
        """A name for a new epoch, whose time is after those of these epochs, even if the clock went back."""
        times = [int(epoch[:12], 16) + 1 for epoch in after if epoch is not None]
        self.epoch_time = max(int(now * 1000), self.epoch_time)
        return epoch_of(max([self.epoch_time, *times]), os.urandom(4))

    def begin_epoch(self, person: Person, now: float, *after: str) -> None:
        """A new epoch, in which the log starts anew. Records keep theirs."""
        epoch = self.new_epoch(now, person.log.epoch, *after)
        line = Line()
        line.epoch(epoch, 0, BEGINNING_TAG)
        self.write(line, person.user, now)
        person.log.begin(epoch)

    def write(self, line: Line, user: UserHash | None, now: float) -> None:
        """Writes down what is about to be done. Raises `Unavailable`; then nothing may be done."""
        if self.journal is not None and line.effects:
            self.journal.append(line.header(user, now), line.blobs)

    # -- chats ---------------------------------------------------------------------------------------------------------

    def put(self, person: Person, chat: ChatInCache, now: float) -> Slot:
        """The chat is now this."""
        slot = person.put(chat, now)
        self.settle_place(person, slot, now)
        return slot

    def settle_place(self, person: Person, slot: Slot, now: float) -> None:
        """Whether the chat may be evicted, and whether it has an end, after it or its entries changed."""
        chat = slot.chat
        if slot.pinned or self.holds(person.user, chat.id):
            person.evictable.pop(chat.id, None)
        else:
            person.evictable[chat.id] = slot
        if not slot.watched:
            end = self._end(person, slot)
            if end is not None:
                slot.watched = True
                self._look(end, person.user, chat.id)

    def _end(self, person: Person, slot: Slot) -> float | None:
        """When the chat's life is over if nothing happens; None for one that has no end."""
        chat = slot.chat
        if chat.messages_version == 0:
            if chat.doomed or self.holds(person.user, chat.id):
                return None
            return max(slot.touched, person.polled) + self.limits.draft_ttl
        if slot.pinned or self.holds(person.user, chat.id):
            return None
        return slot.touched + self.limits.ttl

    def over(self, person: Person, slot: Slot, now: float) -> bool:
        """Whether the chat's life is over."""
        if now - slot.touched <= min(self.limits.ttl, self.limits.draft_ttl):
            return False
        end = self._end(person, slot)
        return end is not None and end < now

    def holds(self, user: UserHash, chat_id: ChatId | None) -> bool:
        """Whether the outbox has an entry of this chat, waiting or parked, for anybody."""
        if not self.queues:
            return False
        key = (user, chat_id)
        return any(queue.holds(key) for queue in self.queues.values())

    def evict(self, person: Person) -> None:
        """Lets go of the least recently used clean chats over the limit. They are in the store; nothing is written down."""
        if len(person.evictable) > self.limits.active:
            for slot in person.surplus(self.limits.active):
                self.let_go(person, slot.chat.id)

    def let_go(self, person: Person, chat_id: ChatId) -> None:
        """The chat is not here any more, and a fill that began before does not bring it back."""
        person.tokens.spoil(chat_id)
        person.remove(chat_id)
        self.dues.remove(person.user, chat_id)

    def bury(self, person: Person, deleted: Deleted, since: float) -> None:
        """The tombstone in the chat's place; its entries go, but for those that tell of the deletion."""
        key = (person.user, deleted.chat_id)
        for queue in self.queues.values():
            for entry in queue.of_chat(key):
                if entry.kind != "deleted":
                    queue.remove(entry.id)
        self.let_go(person, deleted.chat_id)
        person.bury(deleted, since)

    def forget(self, user: UserHash) -> None:
        """Everything of this person but the outbox goes."""
        person = self.persons.pop(user, None)
        if person is not None:
            for chat_id in person.chats:
                self.dues.remove(user, chat_id)

    # -- outbox --------------------------------------------------------------------------------------------------------

    def next_entry(self) -> str:
        """The id of the next entry; ids sort in their order. A number that is not used after all leaves a harmless gap."""
        self.entry += 1
        return f"{self.entry:020d}"

    def targets(self, key: Key, kind: str) -> tuple[Sequence[Queue], list[tuple[str, int]], list[str]]:
        """For whom an entry is to be appended: the queues, and the names of those where it waits and where it is parked."""
        queues, waiting, parked = [], [], []
        for name, queue in self.queues.items():
            if queue.wants(key, kind):
                queues.append(queue)
                if queue.parks(key):
                    parked.append(name)
                else:
                    waiting.append((name, 0))
        return queues, waiting, parked

    def append(self, entry: Entry, queues: Sequence[Queue]) -> None:
        """Appends the entry; behind a parked one of its chat it is parked too."""
        key = (entry.user, entry.chat_id)
        for queue in queues:
            queue.add(entry, queue.parks(key))

    def released(self, keys: Sequence[Key], now: float) -> None:
        """Entries of these chats are gone: those that nothing holds any more may be evicted and expire."""
        for user, chat_id in keys:
            person = self.persons.get(user)
            slot = person.chats.get(chat_id) if person is not None and chat_id is not None else None
            if person is not None and slot is not None:
                self.settle_place(person, slot, now)
                self.evict(person)

    # -- lifetimes -----------------------------------------------------------------------------------------------------

    def _look(self, when: float, user: UserHash, chat_id: ChatId | None) -> None:
        self._number += 1
        heapq.heappush(self._lifetimes, (when, self._number, user, chat_id))

    def sweep(self, now: float, most: int) -> int:
        """Lets go of what is over, looking at no more than `most` places; how many it looked at.

        A chat that was touched meanwhile is looked at again when its new end comes, so that a touch costs nothing.
        """
        looked = 0
        lifetimes = self._lifetimes
        while lifetimes and lifetimes[0][0] < now and looked < most:
            _, _, user, chat_id = heapq.heappop(lifetimes)
            looked += 1
            person = self.persons.get(user)
            if person is None:
                continue
            if chat_id is None:
                self._sweep_person(person, now)
                continue
            slot = person.chats.get(chat_id)
            if slot is None:
                continue
            slot.watched = False
            if self._end(person, slot) is None:
                continue
            if not self.over(person, slot, now):
                self.settle_place(person, slot, now)
            elif not self.expire(person, slot, now):
                slot.watched = True
                self._look(now + _RETRY, user, chat_id)
        return looked

    def expire(self, person: Person, slot: Slot, now: float) -> bool:
        """Lets go of a chat whose life is over; False where that could not be written down."""
        if slot.pinned:  # a draft-only chat, which the journal would bring back
            line = Line()
            line.gone(slot.chat.id)
            try:
                self.write(line, person.user, now)
            except Unavailable:
                return False
        self.let_go(person, slot.chat.id)
        return True

    def _sweep_person(self, person: Person, now: float) -> None:
        limits = self.limits
        person.forget_old(now - limits.outcomes_ttl, now - limits.tombstones_ttl)
        person.tokens.expire(now)
        person.log.trim(limits.events_kept, now - limits.events_ttl)
        if now - person.seen > limits.events_ttl:
            person.log.epoch = None
        if person.empty:
            del self.persons[person.user]
        else:
            self._look(now + _LOOK_AGAIN, person.user, None)
