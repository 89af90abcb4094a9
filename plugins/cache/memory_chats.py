"""The chats of everybody, in the memory of one process: the reference of what a cache does with the rule's decisions."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from zlib import crc32

from plugins.cache.journal_line import Line
from plugins.cache.memory_drop import drop_clean, drop_person
from plugins.cache.memory_fill import fill
from plugins.cache.memory_person import Person
from plugins.cache.memory_state import State
from sidecar import (
    BEGINNING_TAG,
    Accepted,
    AddMessage,
    Change,
    ChatId,
    ChatInCache,
    Chats,
    Conflict,
    Cursor,
    Decision,
    Deleted,
    Entry,
    Events,
    FillToken,
    Item,
    Limits,
    OverQuota,
    PutDraft,
    PutTitle,
    Restore,
    Reused,
    Unmerged,
    UserHash,
    View,
    decide,
)

_BY_CLIENTS = (PutDraft, PutTitle, Restore, AddMessage)
_SWEPT = 64  # places that one commit looks at, at most, when lifetimes are over
_SKEW = 86_400_000  # how far ahead of ours, in milliseconds, the time of a cursor's epoch is believed


class MemoryChats(Chats):
    """Every method runs without an await, so each is one atomic step."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def limits(self) -> Limits:
        """The core's settings."""
        return self._state.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._state.limits = limits

    async def commit(self, change: Change) -> Accepted | Conflict | Unmerged | OverQuota | Reused:
        state = self._state
        now = state.now()
        limits = state.limits
        state.sweep(now, _SWEPT)
        person = state.person(change.user, now)
        chat_id = change.chat_id
        slot = person.chats.get(chat_id)
        if slot is not None and state.over(person, slot, now):
            slot = None
        operation, token = change.operation, change.token
        view = View(
            epoch=person.log.epoch or "",
            chat=slot.chat if slot is not None else None,
            tombstone=person.tombstone(chat_id, now - limits.tombstones_ttl) if slot is None else None,
            remembered=person.outcome(operation, now - limits.outcomes_ttl) if operation is not None else None,
            usage=person.usage,
            token_valid=token is not None
            and token.user == change.user
            and person.tokens.holds(token.value, chat_id, now),
        )
        decision = decide(view, change, limits)
        outcome = decision.outcome
        if isinstance(outcome, Accepted):
            return self._carry_out(person, view, change, decision, outcome, now)
        if isinstance(outcome, Conflict):
            self._remember(person, change, decision, now)
        return outcome

    def _remember(self, person: Person, change: Change, decision: Decision, now: float) -> None:
        """What is kept of a change that did not take place."""
        operation = change.operation
        if operation is None or (decision.remember is None and not decision.forget):
            return
        line = Line()
        if decision.remember is not None:
            line.outcome(operation, decision.remember, now)
        else:
            line.forgotten(operation)
        self._state.write(line, person.user, now)
        _keep(person, operation, decision, now)

    def _carry_out(
        self, person: Person, view: View, change: Change, decision: Decision, outcome: Accepted, now: float
    ) -> Accepted:
        """Everything that the decision says: first written down, then done. Nothing after the writing may fail."""
        state = self._state
        user, chat_id, operation = change.user, change.chat_id, change.operation
        chat, tombstone = decision.chat, decision.tombstone
        epoch = state.new_epoch(now, view.epoch) if decision.new_epoch else None
        items = _items(change, decision, person.log.end if epoch is None else 0)
        entries: list[Entry] = []
        for new in decision.entries:
            entry_chat = chat_id if new.kind != "erased" else None
            entries.append(Entry(state.next_entry(), user, entry_chat, new.kind, new.message_id, change.at))
        if state.journal is not None:
            self._write(person, view, change, decision, items, entries, epoch, now)

        if epoch is not None:
            person.log.begin(epoch)
        if tombstone is not None:
            state.bury(person, tombstone, now)
        for entry in entries:
            state.append(entry, state.targets((user, entry.chat_id), entry.kind)[0])
        slot = person.chats.get(chat_id)
        was_evictable = view.chat is not None and chat_id in person.evictable
        if chat is not None:
            person.tokens.spoil(chat_id)
            if view.chat is None:
                person.remove(chat_id)  # one whose life is over and that nobody has taken away yet
            slot = state.put(person, chat, now)
            slot.journalled = True
            if decision.due:
                limits = state.limits
                state.dues.mark(user, chat_id, now + limits.max_debounce, now + limits.debounce)
        if slot is not None and isinstance(change.what, _BY_CLIENTS):
            person.use(slot)
            slot.touched = now
        if operation is not None:
            _keep(person, operation, decision, now)
        if not was_evictable and chat_id in person.evictable:
            state.evict(person)  # it became one of those that may go; what a fill brought goes with it
        log = person.log
        if items:
            for item in items:
                log.append(now, item)
            log.trim(state.limits.events_kept, now - state.limits.events_ttl)
            # The outcome was made for this commit and nobody has seen it; a copy of it would cost as much as the decision.
            object.__setattr__(outcome, "cursor", log.head)
        if items or epoch is not None:
            state.watchers.grew(user)
        return outcome

    def _write(
        self,
        person: Person,
        view: View,
        change: Change,
        decision: Decision,
        items: Sequence[Item],
        entries: Sequence[Entry],
        epoch: str | None,
        now: float,
    ) -> None:
        line = Line()
        if epoch is not None:
            line.epoch(epoch, 0, BEGINNING_TAG)
        if decision.tombstone is not None:
            line.tombstone(decision.tombstone, now)
        if decision.chat is not None:
            slot = person.chats.get(change.chat_id)
            known = slot is not None and slot.journalled and view.chat is not None
            line.chat(decision.chat, view.chat if known else None)
        if change.operation is not None:
            if decision.remember is not None:
                line.outcome(change.operation, decision.remember, now)
            elif decision.forget:
                line.forgotten(change.operation)
        for item in items:
            line.item(item, now)
        for entry in entries:
            # A tombstone takes everything of its chat out of the outbox first, what is parked too.
            key = (entry.user, entry.chat_id)
            _, waiting, parked = self._state.targets(key, entry.kind)
            if decision.tombstone is not None:
                waiting, parked = [*waiting, *((name, 0) for name in parked)], []
            if waiting or parked:
                line.entry(entry, waiting, parked)
        self._state.write(line, person.user, now)

    async def read(
        self, user: UserHash, ids: Sequence[ChatId], *, use: bool = False
    ) -> Mapping[ChatId, ChatInCache | Deleted]:
        state = self._state
        now = state.now()
        person = state.persons.get(user)
        found: dict[ChatId, ChatInCache | Deleted] = {}
        if person is None:
            return found
        oldest = now - state.limits.tombstones_ttl
        for chat_id in ids:
            slot = person.chats.get(chat_id)
            if slot is None:
                tombstone = person.tombstone(chat_id, oldest)
                if tombstone is not None:
                    found[chat_id] = tombstone
            elif not state.over(person, slot, now):
                found[chat_id] = slot.chat
                slot.touched = now
                if use:
                    person.use(slot)
        if use:
            state.evict(person)
        return found

    async def prepare(self, user: UserHash, ids: Sequence[ChatId]) -> FillToken:
        state = self._state
        now = state.now()
        person = state.person(user, now)
        for chat_id in ids:
            slot = person.chats.get(chat_id)
            if slot is not None and state.over(person, slot, now):
                state.expire(person, slot, now)  # before the token, which its end would spoil
        return FillToken(user, person.tokens.give(ids, now))

    async def fill(self, user: UserHash, chats: Sequence[ChatInCache | Deleted], token: FillToken) -> None:
        now = self._state.now()
        person = self._state.persons.get(user)
        if person is not None and token.user == user:
            fill(self._state, person, chats, token, now)

    async def drop(self, user: UserHash, ids: Sequence[ChatId] | None) -> None:
        now = self._state.now()
        person = self._state.persons.get(user)
        if ids is None:
            drop_person(self._state, user, now)
        elif person is not None:
            drop_clean(self._state, person, ids, now)

    async def events(self, user: UserHash, after: Cursor | None, limit: int) -> Events:
        state = self._state
        now = state.now()
        person = state.person(user, now)
        person.polled = now
        log = person.log
        log.trim(state.limits.events_kept, now - state.limits.events_ttl)
        if after is None:
            return Events((), log.head)
        if after.epoch != log.epoch:
            # An epoch as late as ours that we never began: the cache went back and began another one meanwhile.
            if after.epoch[:12] >= log.head.epoch[:12]:
                ahead = int(after.epoch[:12], 16) - int(now * 1000)
                self._begin_epoch(person, now, *((after.epoch,) if ahead < _SKEW else ()))
            return Events((), log.head, "epoch_changed")
        if after.offset < log.base:
            return Events((), log.head, "cursor_expired")
        if log.tag_at(after.offset) != after.tag:
            self._begin_epoch(person, now)
            return Events((), log.head, "epoch_changed")
        return Events(log.after(after.offset, limit), log.head)

    def _begin_epoch(self, person: Person, now: float, *after: str) -> None:
        self._state.begin_epoch(person, now, *after)
        self._state.watchers.grew(person.user)

    def grown(self, user: UserHash, after: Cursor) -> bool:
        person = self._state.persons.get(user)
        if person is None:
            return True
        person.polled = self._state.clock()  # asked on behalf of a device that is connected, as `events` is
        return person.log.epoch != after.epoch or person.log.end != after.offset

    def watch(self) -> AsyncIterator[UserHash]:
        self._state.now()
        return self._state.watchers.watch()

    def here(self, user: UserHash) -> Sequence[ChatInCache]:
        """Every chat of this person that is here and whose deletion was not begun; keeps drafts alive, as `events` does."""
        state = self._state
        now = state.now()
        person = state.persons.get(user)
        if person is None:
            return ()
        found = [
            slot.chat for slot in person.chats.values() if not slot.chat.doomed and not state.over(person, slot, now)
        ]
        person.polled = now
        return found


def _keep(person: Person, operation: str, decision: Decision, now: float) -> None:
    # Those that are too old are passed over when they are asked for, and go when the lifetimes next look at the person.
    if decision.remember is not None:
        person.remember(operation, decision.remember, now)
    elif decision.forget:
        person.outcomes.pop(operation, None)


def _items(change: Change, decision: Decision, end: int) -> Sequence[Item]:
    if not decision.items:
        return ()
    tag = f"{crc32(change.operation.encode()):08x}" if change.operation is not None else os.urandom(4).hex()
    connection, device = change.connection, change.device
    items = []
    for offset, new in enumerate(decision.items, end + 1):
        chat_id = change.chat_id if new.kind != "notice" else None
        items.append(Item(offset, tag, new.kind, chat_id, new.version, new.ref, connection, device))
    return items
