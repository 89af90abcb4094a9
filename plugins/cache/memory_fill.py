"""What was read from the store comes into the cache, and never over something newer."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.cache.journal_line import Line
from plugins.cache.memory_person import Person
from plugins.cache.memory_state import State
from sidecar import ChatInCache, Deleted, FillToken


def fill(state: State, person: Person, chats: Sequence[ChatInCache | Deleted], token: FillToken, now: float) -> None:
    """Installs each chat for which the token is still proof. Clean ones are not written down: the store has them."""
    user = person.user
    line = Line()
    oldest = now - state.limits.tombstones_ttl
    tombstones: list[Deleted] = []
    records: list[ChatInCache] = []
    for each in chats:
        chat_id = each.chat_id if isinstance(each, Deleted) else each.id
        if each.user != user or not person.tokens.holds(token.value, chat_id, now):
            continue
        if person.tombstone(chat_id, oldest) is not None:
            continue
        if isinstance(each, Deleted):
            line.tombstone(each, now)
            tombstones.append(each)
            continue
        slot = person.chats.get(chat_id)
        if each.epoch != person.log.epoch or (slot is not None and loses(slot.chat, each, person.log.epoch)):
            continue
        if each.pinned or (slot is not None and slot.pinned):
            line.chat(each, None)
        records.append(each)
    state.write(line, user, now)
    for deleted in tombstones:
        state.bury(person, deleted, now)
    for chat in records:
        _install(state, person, chat, now)


def _install(state: State, person: Person, chat: ChatInCache, now: float) -> None:
    slot = state.put(person, chat, now)
    slot.journalled = slot.pinned
    if not chat.doomed and (
        chat.version > max(slot.draft_enqueued, chat.stored_version)
        or chat.title_version > max(slot.title_enqueued, chat.stored_title_version)
    ):
        limits = state.limits
        state.dues.mark(person.user, chat.id, now + limits.max_debounce, now + limits.debounce)


def loses(here: ChatInCache, other: ChatInCache, epoch: str | None) -> bool:
    """Whether putting `other` in the place of `here` would lose anything.

    A number that falls, an unstored text of the present epoch, or a message that nobody else has. Of an older epoch the
    texts were merged with the store on purpose: of equal numbers the store's counts.
    """
    if (
        other.version < here.version
        or other.title_version < here.title_version
        or other.messages_version < here.messages_version
        or (here.doomed and not other.doomed)
    ):
        return True
    if here.epoch == epoch and (
        (here.version > here.stored_version and other.version == here.version and other.draft_op != here.draft_op)
        or (
            here.title_version > here.stored_title_version
            and other.title_version == here.title_version
            and other.title_op != here.title_op
        )
    ):
        return True
    if here.undelivered:
        there = {message.id for message in other.messages}
        return any(message.status != "delivered" and message.id not in there for message in here.messages)
    return False
