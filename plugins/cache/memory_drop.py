"""What is in the cache is forgotten: what the store has too, or a whole person."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.cache.journal_line import Line
from plugins.cache.memory_person import Person
from plugins.cache.memory_state import State
from sidecar import ChatId, ChatInCache, UserHash

_LAST_NEWS = ("deleted", "erased")


def drop_clean(state: State, person: Person, ids: Sequence[ChatId], now: float) -> None:
    """Clean chats go; of the others the messages that the store has."""
    line = Line()
    kept: list[ChatInCache] = []
    for chat_id in ids:
        slot = person.chats.get(chat_id)
        if slot is not None and slot.pinned and any(message.status == "delivered" for message in slot.chat.messages):
            rest = [message for message in slot.chat.messages if message.status != "delivered"]
            kept.append(slot.chat.with_messages(rest, len(rest), older=True))
            line.chat(kept[-1], slot.chat if slot.journalled else None)
    state.write(line, person.user, now)
    for chat in kept:
        state.put(person, chat, now).journalled = True
    for chat_id in ids:
        person.tokens.spoil(chat_id)
        slot = person.chats.get(chat_id)
        if slot is not None and not slot.pinned:
            state.let_go(person, chat_id)


def drop_person(state: State, user: UserHash, now: float) -> None:
    """All of it, but the entries that tell the plugins of the end of the person and of chats."""
    line = Line()
    line.reset()
    for name, queue in state.queues.items():
        for entry in queue.of_user(user):
            if entry.kind in _LAST_NEWS:
                parked = queue.is_parked(entry.id)
                line.entry(entry, [] if parked else [(name, entry.tries)], [name] if parked else [])
    state.write(line, user, now)
    for queue in state.queues.values():
        for entry in queue.of_user(user):
            if entry.kind not in _LAST_NEWS:
                queue.remove(entry.id)
    state.forget(user)
